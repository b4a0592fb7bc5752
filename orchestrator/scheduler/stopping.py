"""Whether a run is to stop: asked by a signal, a worker, another process or a lost storage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class StopRequest:
    """Whether to stop, and why; set by a signal, by a user's mistake that a worker found, or from another process."""

    wanted: bool = False
    """Stop now."""
    draining: bool = False
    """Start nothing new; what runs is finished."""
    user_error: str = ""

    def because(self, error: str) -> None:
        """Stop now, for a reason that the user is told."""
        self.wanted, self.user_error = True, error

    def after_running(self, error: str) -> None:
        """Start nothing new, for a reason that the user is told once what runs is finished."""
        self.draining, self.user_error = True, self.user_error or error

    @property
    def closing(self) -> bool:
        """Nothing new is started."""
        return self.wanted or self.draining
