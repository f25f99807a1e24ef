"""COCO captions: photographs and five captions each, by year or with Karpathy's split."""

from pathlib import Path

from miniclip.data.sources.caption_files import read_coco, read_karpathy
from miniclip.data.sources.photographs import PARTS, Photographs, holds_jpegs, only_one
from miniclip.data.split import Split
from miniclip.errors import SettingError


class CocoCaptions(Photographs):
    """COCO captions (Chen et al. 2015, arXiv 1504.00325) with Karpathy's split or as published.

    With Karpathy's `dataset_coco.json` (Karpathy & Li 2015) its 5,000 test images, which papers report
    on, are the test part. Else `captions_*.json` are read: of several years the newest one with images;
    with the training file alone a seeded fraction of it validates.
    """

    split_file = "dataset_coco.json"

    def splits(self) -> tuple[Split, ...]:
        karpathy = self._find(self.split_file)
        years = self._years()
        # configs of before `eval_split` never meant Karpathy's file
        if karpathy is not None and not (years and self.eval_split is None):
            parts = read_karpathy(karpathy)
            first = next(name for captions in parts.values() for name in captions)
            return self._splits(parts, dict.fromkeys(PARTS, self._home_of(first)))
        if not years:
            wanted = f"holds neither captions_train*.json nor {self.split_file}"
            raise SettingError("root", self.root, wanted)

        for year in years:
            folder = self._image_folder(f"train{year}")
            if folder is not None:
                return self._of_year(year, folder)
        names = ", ".join(f"train{year}" for year in years)
        raise SettingError("root", self.root, f"holds no image folder with .jpg files ({names})")

    def _years(self) -> list[str]:
        """Years of the training captions, newest first."""
        names = {path.stem for path in self.root.glob("**/captions_train*.json")}
        return sorted((name.removeprefix("captions_train") for name in names), reverse=True)

    def _of_year(self, year: str, train_folder: Path) -> tuple[Split, ...]:
        """The published parts of one year."""
        parts, images = {}, {"train": train_folder}
        # captions may lie anywhere below the root, as the archives of years have them
        for part in ("train", "val"):
            path = only_one(self.root.glob(f"**/captions_{part}{year}.json"))
            if path is not None:
                parts[part] = read_coco(path)

        if "val" in parts:
            folder = self._image_folder(f"val{year}")
            if folder is None:
                name = f"val{year}"
                raise SettingError("root", self.root, f"holds no image folder with .jpg files ({name})")
            images["val"] = folder
        return self._splits(parts, images)

    def _image_folder(self, name: str) -> Path | None:
        """The folder of a part's images: below the root or its folder images, or the same within."""
        for home in self._homes():
            for folder in (home / name, home / name / name):
                if holds_jpegs(folder):
                    return folder
        return self.root if holds_jpegs(self.root) else None

    def _homes(self) -> list[Path]:
        return [self.root, self.root / "images"]

    def _home_of(self, name: str) -> Path:
        """The folder that names such as val2014/COCO_val2014_000000391895.jpg begin at."""
        folder = Path(name).parent
        for home in self._homes():
            if holds_jpegs(home / folder):
                return home
        raise SettingError("root", self.root, f"holds no image folder with .jpg files ({folder})")
