"""Checks that the images of a set in Parquet shards, DVC's hashes and the store agree."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from genie.cli.dvc_cache import TrackedFolder, md5
from genie.cli.healing import Fault, fault_of, healed
from genie.core.errors import GenieError
from genie.data.shards import ShardRow, Shards, is_shard, shard_files, write_shards
from genie.render.store import load_image, save_image, store_path


def shard_names(folder: Path, tracked: TrackedFolder | None) -> list[str]:
    """Return the names of the shards that exist or that DVC recorded, sorted."""
    listed = [name for name in (tracked.hashes if tracked else ()) if is_shard(name)]
    return sorted({*listed, *(path.name for path in shard_files(folder))})


def faults_of_shards(
    folder: Path, rows: Iterable[Any], store: Path, tracked: TrackedFolder | None, *, repair: bool
) -> Iterator[Fault]:
    """Yield one fault for each faulty shard, and the faults of copies of images in the store.

    `rows` are the rows of metadata.csv. At most one shard is in memory at a time.
    """
    yield from _ShardedSet(folder, store, tracked).faults(rows, repair=repair)


class _ShardedSet:
    """A set in shards, with the faults in each shard and the rows of metadata.csv."""

    def __init__(self, folder: Path, store: Path, tracked: TrackedFolder | None) -> None:
        self.folder, self.store, self.tracked = folder, store, tracked
        self.shards = Shards([])
        self.rows: dict[str, Any] = {}
        self.wrong: dict[str, list[str]] = {name: [] for name in shard_names(folder, tracked)}
        for name, found in self.wrong.items():
            try:
                self.shards.add(folder / name)
            except GenieError:
                found.append("cannot be read" if (folder / name).is_file() else "is missing")
        self.unreadable = [name for name, found in self.wrong.items() if found]
        self.others = {n for n in self.wrong.keys() - set(self.unreadable) if self._is_another(n)}

    def faults(self, rows: Iterable[Any], *, repair: bool) -> Iterator[Fault]:
        for row in rows:
            self.rows[row.file_name] = row
            yield from self._faults_of_image(row, repair=repair)
        for shard in self.others:
            if not self.wrong[shard]:
                self.wrong[shard].append("is not the file that DVC recorded")
        if not any(self.wrong.values()):
            yield from self._lacking()
        for shard, found in self.wrong.items():
            if found:
                more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
                yield self._healed(shard, found[0] + more, repair=repair)
            else:
                yield from self._strays(shard)

    def _faults_of_image(self, row: Any, *, repair: bool) -> Iterator[Fault]:
        """Record the fault of an image, or yield the fault of its copy in the store."""
        png, stored = self._png(row.file_name), store_path(self.store, row.key)
        if png is None:
            return
        shard = self.shards.places[row.file_name].path.name
        what = fault_of(png, row)
        if what is not None:
            self.wrong[shard].append(f"contains {row.file_name}, which {what}")
        elif shard not in self.others and stored.is_file() and stored.read_bytes() != png:
            yield healed(stored, "differs from the image of the set", png, repair=repair)

    def _png(self, name: str) -> bytes | None:
        """Return an image of a shard; b"" if it cannot be read, None if it is in no shard."""
        try:
            return self.shards.png(name)
        except FileNotFoundError:
            return None
        except Exception:  # readers can raise anything on damaged bytes
            return b""

    def _lacking(self) -> Iterator[Fault]:
        for name in sorted(self.rows.keys() - self.shards.places.keys()):
            yield Fault(self.folder / "metadata.csv", f"lists {name}, which is in no shard")

    def _strays(self, shard: str) -> Iterator[Fault]:
        for name, place in self.shards.places.items():
            if place.path.name == shard and name not in self.rows:
                yield Fault(place.path, f"contains {name}, which is missing from metadata.csv")

    def _is_another(self, shard: str) -> bool:
        """Return whether a shard differs from the file that DVC recorded, or was not recorded."""
        if self.tracked is None:
            return False
        return self.tracked.hashes.get(shard) != md5((self.folder / shard).read_bytes())

    def _healed(self, shard: str, what: str, *, repair: bool) -> Fault:
        if not repair:
            return Fault(self.folder / shard, what)
        content = self._tracked_content(shard) or self._made_again(shard)
        if content is None and not self.rows:  # undamaged images cannot be identified
            return Fault(self.folder / shard, what)
        if self.tracked is not None and shard in self.tracked.hashes:
            if content is None:
                self.tracked.drop_damaged(shard)
            else:
                self.tracked.heal(shard, content)
        return healed(self.folder / shard, what, content, repair=repair)

    def _tracked_content(self, shard: str) -> bytes | None:
        if self.tracked is None or shard not in self.tracked.hashes:
            return None
        return self.tracked.content(shard)

    def _made_again(self, shard: str) -> bytes | None:
        """Rebuild a shard from its undamaged images and the store; return None if this fails.

        The result must be the file that DVC recorded. Otherwise, the undamaged images are saved to
        the store, where `dvc repro` finds them.
        """
        names = self._names(shard)
        images = [image for image in map(self._good_image, names) if image is not None]
        if len(images) == len(names) > 0:
            with TemporaryDirectory() as place:
                write_shards(images, Path(place), size=len(images))
                content = shard_files(Path(place))[0].read_bytes()
            if self.tracked is None or self.tracked.hashes.get(shard) == md5(content):
                return content
        for image in images:
            key = self.rows[image.file_name].key
            if load_image(self.store, key) is None:
                save_image(self.store, key, image.png)
        return None

    def _names(self, shard: str) -> list[str]:
        """Return the names of a shard's images in metadata.csv; return [] if they are unknown."""
        if shard not in self.unreadable:
            places = self.shards.places
            return [n for n in sorted(self.rows) if n in places and places[n].path.name == shard]
        if len(self.unreadable) > 1:
            return []
        return sorted(self.rows.keys() - self.shards.places.keys())

    def _good_image(self, name: str) -> ShardRow | None:
        """Return the undamaged image from the shard or the store, or None if there is none."""
        row = self.rows[name]
        for png in (self._png(name), load_image(self.store, row.key)):
            if png is not None and fault_of(png, row) is None:
                return ShardRow(name, row.label, png)
        return None
