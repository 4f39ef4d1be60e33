"""Keyset pages: the way from one to the next."""

from __future__ import annotations

from uuid import UUID

from fastapi import Request


def link_to_next(request: Request, last: UUID | None) -> dict[str, str]:
    """The Link header (RFC 8288) to what follows the row `last`; no header where nothing follows."""
    if last is None:
        return {}
    following = request.url.include_query_params(after=str(last))
    return {"Link": f'<{following.path}?{following.query}>; rel="next"'}
