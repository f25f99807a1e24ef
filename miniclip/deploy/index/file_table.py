"""Tables that name files of images."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from miniclip.data.sources.image_names import find_images as files_of_names
from miniclip.deploy.index.source import ImageSource, SourceImage, image_of_file
from miniclip.errors import UserError


class FileTable(ImageSource):
    """The images that a table names; of rows that name the same file the first counts.

    Args:
        path: of the table.
        root: the folder that the names are relative to.
        titles: name of each image's file to its title, if it has one.
    """

    def __init__(self, path: Path, root: Path, titles: Mapping[str, str | None]):
        super().__init__(path, root)
        if not titles:
            raise UserError(f"{path} names no images.")
        self.titles: dict[str, str | None] = {}
        for name, file in files_of_names(root, titles, skips_missing=True).items():
            self.titles.setdefault(file, titles[name])

    def __len__(self) -> int:
        return len(self.titles)

    def images(self) -> Iterator[tuple[SourceImage, None]]:
        for name, title in self.titles.items():
            yield image_of_file(self.root, name, title), None
