"""Working folder of a run: locked, continued, and renamed when its output is complete."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medvit import sources, tracking
from medvit.artifacts import CONFIG, Lineage
from medvit.config import Tree, read_yaml
from medvit.errors import ConfigError, MedvitError, OutputError
from medvit.files.atomic import sweep
from medvit.files.lock import LOCK, FileLock, LockedError, take
from medvit.files.private import OWNER_FOLDER
from medvit.stage.config import BOOKKEEPING, OPTIONS, WORK, StageConfig

UNNEEDED = ".unneeded.json"
"""File that lists the leftovers that a finished run removes from its folder. If the run is killed before it has removed
them, they are removed later by this list.
"""
FREE_BYTES = 2**20
"""Free space below which a failed write is reported as a full disk."""


class BusyError(OutputError):
    """Output folder in which another process is working."""


def is_left(partial: Path) -> bool:
    """Return whether the first process of a run has ended, or the folder has its final name."""
    try:
        take(partial / LOCK, "medvit").release(partial / LOCK)
    except LockedError:
        return False
    except OSError:  # the folder was renamed
        return True
    return True


def reopen(final: Path, partial: Path, config: StageConfig, stage: str) -> None:
    """Give a finished output the name of an unfinished one.

    Raises:
        OutputError: If the folder is not an output of this stage.
        ConfigError: If it was made with other options.
    """
    lineage = Lineage.read(final) if final.is_dir() else None
    if lineage is None or lineage.stage != stage:
        raise OutputError(f"{final} is not a finished output of {stage}; give the folder of an earlier run")
    refuse_other_options(final, config)
    with suppress(FileNotFoundError):  # another process has done it
        os.replace(final, partial)


@contextmanager
def locked(partial: Path, final: Path, config: StageConfig, stage: str) -> Iterator[None]:
    """Create and lock the working folder, or open and lock that of the unfinished run.

    Raises:
        OutputError: If the output exists already, if an unfinished run exists and `resume` is not set, or if another
            process is working there.
        ConfigError: If the unfinished run was started with other options.
    """
    _finish_removal(final)
    if config.reopens and not partial.exists():
        reopen(final, partial, config, stage)
    _refuse_used(final, config.OUTPUT)
    is_new = not partial.exists()
    lock = _take(partial, final, f"medvit {stage}", config)
    try:
        _refuse_used(final, config.OUTPUT)  # another run may have finished just before the lock was taken
        if not is_new and not config.resume and not config.IS_SHARED:
            raise OutputError(f"{partial} contains an unfinished run; continue with resume=true, or remove it")
        refuse_other_options(partial, config)
        sweep(partial, besides=(tracking.FOLDER, sources.SPOOL, WORK))
        yield
    finally:
        lock.release(partial / LOCK, final / LOCK)


def _refuse_used(final: Path, key: str) -> None:
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise OutputError(f"{final} exists already; give another {key}=... or remove it first")


def _take(partial: Path, final: Path, purpose: str, config: StageConfig) -> FileLock:
    try:
        if final.exists():
            final.rmdir()
        partial.mkdir(mode=OWNER_FOLDER if config.IS_PRIVATE else 0o777, parents=True, exist_ok=True)
        lock = take(partial / LOCK, purpose)
        if config.IS_PRIVATE:
            partial.chmod(OWNER_FOLDER)  # files written below it later are unreadable for others
        return lock
    except LockedError as error:
        raise BusyError(
            f"{error} is working in {partial}; wait until it has ended, or give another {config.OUTPUT}=..."
        ) from None
    except OSError as error:
        raise OutputError(f"{final} cannot be created: {error.strerror}; give another {config.OUTPUT}=...") from None


def rename(partial: Path, final: Path) -> None:
    """Give the working folder its final name."""
    os.replace(partial, final)


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files and folders by their names; missing ones are skipped."""
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _finish_removal(final: Path) -> None:
    """Remove temporary files of a run that was killed after its output got its final name."""
    path = final / UNNEEDED
    if not path.is_file():
        return
    try:
        lock = take(final / LOCK, "medvit")
    except (LockedError, OSError):  # the run itself is about to remove them, or nothing can be written here
        return
    try:
        names = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        remove(final, [*(name for name in names if Path(name).name == name), UNNEEDED])
    finally:
        lock.release(final / LOCK)


def refuse_other_options(partial: Path, config: StageConfig) -> None:
    """Check that an unfinished run was started with the options of this one.

    Raises:
        ConfigError: If an option differs that may not change.
    """
    # A run of an older version has its options in config.yaml alone.
    path = next((path for path in (partial / OPTIONS, partial / CONFIG) if path.is_file()), None)
    if path is None:
        return
    before, now = _completed(read_yaml(path), config), config.tree(private=False)
    changed = list(_changed(without(before, config.MAY_CHANGE), without(now, config.MAY_CHANGE)))
    if changed:
        raise ConfigError(
            f"the {'' if partial.name == config.folder.name else 'unfinished '}run in {partial} was started with other "
            f"options ({', '.join(changed)}); {'join or ' * config.IS_SHARED}resume with the same ones, or "
            f"{f'give another {config.OUTPUT}=...' if config.IS_SHARED else 'remove it'}"
        )


def _changed(before: Tree, now: Tree, prefix: str = "") -> Iterator[str]:
    """Yield the names of the options that differ, with dotted names for options in groups."""
    for key in [*now, *(key for key in before if key not in now)]:
        one, other = before.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _changed(one, other, f"{prefix}{key}.")
        elif one != other:
            yield f"{prefix}{key}"


def without(tree: Tree, names: Iterable[str]) -> Tree:
    """Return the options in `tree` without the named options; options in groups have dotted names."""
    inner: dict[str, list[str]] = {}
    for name, _, rest in (name.partition(".") for name in names):
        inner.setdefault(name, []).append(rest)
    kept = {key: value for key, value in tree.items() if "" not in inner.get(key, ())}
    return {key: without(value, inner[key]) if key in inner else value for key, value in kept.items()}


def _completed(before: Tree, config: StageConfig) -> Tree:
    """Return the options of an unfinished run, adding defaults for options that its medvit version did not have."""
    now = config.tree()
    required = {key: now[key] for key, field in type(config).model_fields.items() if field.is_required()}
    try:
        return type(config).parse_saved({**required, **before}, source=CONFIG).tree(private=False)
    except ConfigError:
        return before


@contextmanager
def removed_if_empty(partial: Path) -> Iterator[None]:
    """Return a context that removes the working folder of a run that failed before it had anything to resume."""
    try:
        yield
    except BaseException:
        made = (path.relative_to(partial).parts[0] for path in partial.rglob("*") if path.is_file())
        if partial.exists() and all(name in BOOKKEEPING for name in made):
            shutil.rmtree(partial)
        raise


@contextmanager
def explained_disk_errors(partial: Path) -> Iterator[None]:
    """Return a context that reports a full disk in one sentence.

    Raises:
        OutputError: If the disk of the folder is full.
    """
    try:
        yield
    except MedvitError:
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        place = partial if partial.exists() else partial.parent
        if full or shutil.disk_usage(place).free < FREE_BYTES:
            raise OutputError(
                f"the disk of {place} is full; free some space, then continue with resume=true"
            ) from error
        raise
