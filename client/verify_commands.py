"""`lethe verify`: whether a folder is what a service delivered; `lethe signing-key`: by whose word."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from client.screen import FINDINGS, AsJson, Profile, Url, errors, failing, service, tell
from client.signatures import NotVerified
from client.signatures import verify as check


def verify(
    folder: Annotated[Path, typer.Argument(help="The folder.", exists=True, file_okay=False, metavar="DIR")],
    key: Annotated[Path, typer.Option(help="The signer's public key (PEM).", exists=True, dir_okay=False)],
    as_json: AsJson = False,
) -> None:
    """Check signature, files and provenance of a delivered folder. 0: it is what was signed; 1: it is not."""
    with failing():
        try:
            found = check(folder, key)
        except NotVerified as trouble:
            tell({"verified": False, "trouble": trouble.message}, "not verified", as_json=as_json)
            errors.print(trouble.message, soft_wrap=True)
            raise typer.Exit(FINDINGS) from None
        words = [f"{folder} is what key {found.key_id[:16]} signed: {len(found.files)} files of job {found.job}."]
        words += [f"  made of {name} {digest}" for name, digest in found.inputs.items()]
        tell({"verified": True, **asdict(found)}, "\n".join(words), as_json=as_json)


def signing_key(url: Url = None, profile: Profile = None) -> None:
    """Print the public key that the service signs results with."""
    with service(url, profile) as lethe:
        typer.echo(lethe.signing_key(), nl=False)
