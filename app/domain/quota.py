"""What one tenant may hold and have under way at a time."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.errors import QuotaExceeded, TooMany


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant holds: `bytes` of uploads as announced, of samples and of models, each counted by itself;
    unfinished uploads; jobs that have not ended."""

    bytes: int
    uploads: int
    jobs: int


@dataclass(frozen=True, slots=True)
class Quota:
    """The most of each. `running_jobs` is what workers keep to; 0: no bound."""

    bytes: int
    uploads: int
    jobs: int
    running_jobs: int

    def check_bytes(self, used: Usage, more: int) -> None:
        """Raises QuotaExceeded where `more` bytes do not fit any more."""
        if used.bytes + more > self.bytes:
            raise QuotaExceeded(
                f"{more:,} bytes are more than are left: {used.bytes:,} of {self.bytes:,} are used. Delete models, "
                "samples and uploads that are not needed, or ask the operator for more.",
                limit=self.bytes,
                used=used.bytes,
            )

    def check_uploads(self, used: Usage) -> None:
        """Raises TooMany where another unfinished upload is one too many."""
        if used.uploads >= self.uploads:
            raise TooMany(
                f"{used.uploads:,} uploads are unfinished, and no more are allowed at a time. Finish or delete some.",
                limit=self.uploads,
                used=used.uploads,
            )

    def check_jobs(self, used: Usage) -> None:
        """Raises TooMany where another open job is one too many."""
        if used.jobs >= self.jobs:
            raise TooMany(
                f"{used.jobs:,} jobs have not ended, and no more are allowed. Wait for some, or cancel them.",
                limit=self.jobs,
                used=used.jobs,
            )
