"""One checkpoint out of a store into a folder: what is there already and whole stays, the rest is fetched, and all of it is verified."""

from __future__ import annotations

import os
from pathlib import Path

from genlib.checkpoint.history import clear
from genlib.checkpoint.manifest import DIGEST, MANIFEST, Manifest, read_manifest, sha256, step_of, verify
from genlib.remote.store_folder import StoreFolder, some_at_once


def kept(final: Path) -> Path:
    """Where a node has what it wrote of a checkpoint that several nodes wrote."""
    return final.with_name(f".{final.name}.kept")


def bring(store: StoreFolder, folder: Path) -> Manifest:
    """Makes `folder`, called like the checkpoint, a verified copy of one in a store; what is there of it already and whole stays.

    ValueError where what is in the store is damaged, OSError where it does not answer or there is no room here.
    """
    if (manifest := _there(store, folder)) is not None:
        return manifest
    draft = folder.with_name(f".{folder.name}.fetch.partial")
    for source in (kept(folder), folder):
        if source.is_dir() and not draft.exists():
            os.rename(source, draft)
    draft.mkdir(parents=True, exist_ok=True)
    manifest = fetch_manifest(store, draft)
    if step_of(folder.name) not in (None, manifest.step):
        raise ValueError(f"{store} is the checkpoint of step {manifest.step} under another name")
    _clear_others(draft, manifest)
    some_at_once(lambda item: _fetch(store, draft, *item), manifest.files.items())
    clear(folder)
    os.rename(draft, folder)
    return manifest


def _there(store: StoreFolder, folder: Path) -> Manifest | None:
    """The manifest of the folder if it is whole and that of the checkpoint in the store: nothing is moved under those who read it."""
    if not (folder / MANIFEST).is_file():
        return None
    found = store.read(MANIFEST)
    if found is None or found[0] != (folder / MANIFEST).read_bytes():
        return None
    try:
        return verify(folder)
    except ValueError:
        return None


def fetch_manifest(store: StoreFolder, folder: Path) -> Manifest:
    """The manifest of a checkpoint in a store, which the folder then has too. ValueError where there is none, or it is damaged."""
    for name in (MANIFEST, DIGEST):
        if (found := store.read(name)) is not None:
            (folder / name).write_bytes(found[0])
        else:
            (folder / name).unlink(missing_ok=True)
    return read_manifest(folder)


def _clear_others(draft: Path, manifest: Manifest) -> None:
    """Deletes what is no file of the checkpoint."""
    for path in draft.rglob("*"):
        if not path.is_dir() and str(path.relative_to(draft)) not in (*manifest.files, MANIFEST, DIGEST):
            path.unlink()


def _fetch(store: StoreFolder, draft: Path, name: str, digest: str) -> None:
    """One file, unless it is there. ValueError where it is not in the store as it was written."""
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise ValueError(f"{store}: {name!r} is no name of a file in it")
    path = draft / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and sha256(path) == digest:
        return
    try:
        store.download(name, path)
    except FileNotFoundError:
        raise ValueError(f"{store}: {name} is missing") from None
    if sha256(path) != digest:
        path.unlink()
        raise ValueError(f"{store}: {name} is damaged (its sha256 is not the manifest's)")
