"""An export as a repository on the Hugging Face hub, or on any server with its API (`HF_ENDPOINT`)."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genlib.sharing.card import CARD, SAMPLE, Facts, card
from genlib.sharing.formats import Format


def check_ready(repository: str) -> None:
    """What can be known before anything is written. ValueError with the way out."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
        good = repository.count("/") == 1
    except HFValidationError:
        good = False
    if not good:
        raise ValueError(f"--push-to-hub {repository!r} is no repository's name; give OWNER/NAME, such as {os.environ.get('USER', 'me')}/clip")
    if get_token() is None:
        raise ValueError(
            f"there is no token for the hub, so {repository} cannot be written: `hf auth login` keeps one, or HF_TOKEN names one with write access"
        )


def lay_out(facts: Facts, formats: Sequence[Format], export: Path, repository: str, out: Path) -> None:
    """Fills the empty folder `out` with a repository's files: each format where it belongs, and one card for all."""
    for form in formats:
        place = out / form.hub_folder
        for path in sorted((export / form.folder).rglob("*")):
            if path.is_file() and not _of_another(path, form, formats, export):
                _copy(path, place / path.relative_to(export / form.folder))
        if form.prepare_for_hub:
            form.prepare_for_hub(place, repository)
        if form.hub_folder:
            (place / CARD).unlink(missing_ok=True)
    text = card(facts, formats, has_picture=(out / SAMPLE).exists(), repository=repository)
    (out / CARD).unlink(missing_ok=True)
    (out / CARD).write_text(text)


def _of_another(path: Path, form: Format, formats: Sequence[Format], export: Path) -> bool:
    """Whether a file below a format's folder lies in that of another one."""
    inner = [export / other.folder for other in formats if other is not form and len(other.folder) > len(form.folder)]
    return any(path.is_relative_to(folder) for folder in inner)


def _copy(source: Path, place: Path) -> None:
    """Links the file, or copies it where the disk is another. Two formats in one place share what is equal."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        if place.name == CARD:
            return
        assert filecmp.cmp(source, place, shallow=False), f"{source} is not {place}, which another format has there"
        return
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of a push."""

    url: str
    existed: bool
    """Whether the repository was there before: the files are then a new commit on top of it."""


def push(folder: Path, repository: str, *, private: bool, message: str) -> Pushed:
    """Uploads the folder in one commit, making the repository where there is none. ValueError in one sentence where that fails."""
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api, existed = HfApi(), False
    try:
        try:
            api.create_repo(repository, private=private, repo_type="model")
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            existed = True
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message, repo_type="model")
    except HfHubHTTPError as error:
        raise ValueError(_refused(error.response.status_code, error.server_message or "", repository, api.endpoint)) from None
    except (HTTPError, OSError) as error:
        raise ValueError(
            f"{api.endpoint} cannot be reached ({str(error) or type(error).__name__}), so {repository} is not written; "
            "the export is whole: give the same command again"
        ) from None
    return Pushed(f"{api.endpoint}/{repository}", existed)


def _refused(status: int, said: str, repository: str, endpoint: str) -> str:
    """A sentence for an answer of the hub that is an error."""
    if status == 401:
        return f"{endpoint} does not take the token (401), so {repository} is not written; log in again: `hf auth login`, or another HF_TOKEN"
    if status == 403:
        return f"the token may not write {repository} (403: {said or 'forbidden'}); take one with write access, or a name of your own"
    return f"{endpoint} refused {repository} ({status}: {said or 'no reason given'}); the export is whole, and the same command tries again"
