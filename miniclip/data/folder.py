"""A folder of pictures, each with a text file of its captions beside it."""

from pathlib import Path

from PIL import Image

from miniclip.data.captions import Captions, seeded_split, split_of_files
from miniclip.data.dataset import FolderSource, Split
from miniclip.errors import SettingError, UserError


class Folder(FolderSource):
    """`dog.jpg` and `dog.txt` side by side, anywhere below one folder; a caption a line.

    With folders `train` and `val` or `test` inside, these are the splits.
    """

    def splits(self) -> tuple[Split, ...]:
        train, val, test = (self.root / part for part in ("train", "val", "test"))
        # configs of before `eval_split` took no notice of a folder test
        has_test = test.is_dir() and self.eval_split is not None
        if not (train.is_dir() and (val.is_dir() or has_test)):
            return self._seeded(self.root)
        tests = [self._split("test", _captions(test), test)] if has_test else []
        if not val.is_dir():
            return (*self._seeded(train), *tests)
        held_out = self._split("val", _captions(val), val)
        return (self._split("train", _captions(train), train), held_out, *tests)

    def _seeded(self, root: Path) -> tuple[Split, Split]:
        train, val = seeded_split(_captions(root), val_fraction=self.val_fraction, seed=self.split_seed)
        return self._split("train", train, root), self._split("seeded val", val, root)

    def _split(self, name: str, captions: Captions, root: Path) -> Split:
        return split_of_files(
            name, captions, root, decode_size=self.decode_size, skips_missing=self.skips_broken
        )


def _captions(folder: Path) -> Captions:
    endings = set(Image.registered_extensions())
    captions, without = {}, []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in endings:
            continue
        text = path.with_suffix(".txt")
        try:
            lines = text.read_text(encoding="utf-8-sig").splitlines() if text.is_file() else []
        except UnicodeDecodeError as error:
            raise UserError(f"{text} cannot be read as UTF-8 text ({error}).") from None
        own = [line.strip() for line in lines if line.strip()]
        if own:
            captions[str(path.relative_to(folder))] = own
        else:
            without.append(path)
    if not captions:
        example = f"; {without[0]} has no {without[0].stem}.txt" if without else ""
        raise SettingError("root", folder, f"holds no image with a text file beside it{example}")
    if without:
        raise UserError(
            f"{without[0]} and {len(without) - 1:,} more images have no captions in a .txt beside them."
        )
    return captions
