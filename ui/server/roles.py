"""Who leads: may publish verdicts and make review links. Everyone else reads and judges.

Without a login whoever reaches the pages is the person at this machine, and leads. With one, leads are those whom the file of users marks
(`python -m ui.server.auth FILE NAME --lead`) or `--lead` names. A file that marks nobody has no lead: it was written before there were
leads, cannot tell whom its owner would choose, and what is published is hard to take back. Who runs the server can publish all the same,
with `icr verdicts publish`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from icr_platform.core.errors import InputError
from ui.server.auth import load_users
from ui.server.options import InspectOptions


@dataclass(frozen=True)
class Leads:
    """names: of those who lead. is_everyone: nobody logs in, and only this machine reaches the pages."""

    names: frozenset[str] = frozenset()
    is_everyone: bool = False

    def is_lead(self, user: str | None) -> bool:
        """Whether a logged-in user leads; `user` is None or '' without a login, never a name that somebody typed."""
        return self.is_everyone or (user or "") in self.names

    def refuse_others(self, user: str | None, what: str) -> None:
        """Raise InputError unless the user leads. what: such as 'Publishing'."""
        if self.is_lead(user):
            return
        who = f"; here {' and '.join(sorted(self.names))} can" if self.names else ""
        raise InputError(
            f"{what} is for leads{who}. Who runs the inspector names them: `icr inspect --lead NAME`, or "
            "`python -m ui.server.auth FILE NAME --lead`."
        )


def leads_of(options: InspectOptions) -> Leads:
    """Who leads in an inspector with these options.

    Raises:
        InputError: --lead names somebody whom the file of users does not have, or nobody logs in.
    """
    named = frozenset(name for part in options.lead.split(",") if (name := part.strip()))
    if options.auth_file:
        users = load_users(Path(options.auth_file))
        unknown = named - set(users)
        if unknown:
            raise InputError(
                f"icr inspect: --lead {min(unknown)}: {options.auth_file} has no such user; it has {_listed(users)}"
            )
        return Leads(named | {name for name, user in users.items() if user.is_lead})
    if options.user_header:
        return Leads(named)
    if named:
        raise InputError(
            "icr inspect: --lead needs a login, because a name that is typed proves nothing; give --auth-file or --user-header too"
        )
    return Leads(is_everyone=not options.public_host)


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:20]) + (" and more" if len(names) > 20 else "")
