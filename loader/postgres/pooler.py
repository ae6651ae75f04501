"""Whether a pooler between this process and PostgreSQL shares its server connections between clients.

A load needs a session: the table's turn is a lock of it, and so are the timeouts that bound it. PgBouncer with
pool_mode "session" gives each client a server connection of its own for as long as the client stays, and is as good as
the server itself. In mode "transaction" or "statement", or behind RDS Proxy, each transaction may run on another one:
two loads may then hold one turn at the same time, a lock stays behind on a connection that the load never gets back,
and settings reach other clients. No lock that survives a commit is safe there, so such a pool is refused.

It is recognised before anything is set (`shares_backends`). Should it be missed, two conditions keep the target right
(`ledger`): the turn is not taken on a connection that has it already, and a load is entered as loaded only
on the connection that has the turn.
"""

from __future__ import annotations

from collections.abc import Callable

from loader.core.errors import SetupError

ROUNDS = 10
"""How often `shares_backends` asks. A quiet pool is found out by the first round, whether it hands out its connections
newest first or in turn. One of two connections that other clients keep busy passes a round by chance once in eight
times at most (the first client gets its own connection again twice, and the second one the other), so all rounds once
in a thousand million times. A round takes three round trips, and only where there is a pooler."""


def shares_backends(one: Callable[[], int], other: Callable[[], int]) -> bool:
    """Whether two clients of a pool do not have a backend each.

    ``one`` and ``other`` ask, each over a connection of its own and in a transaction of its own, for the id of the
    process that answers. The first is asked twice in a row, for a pool that takes its connections in turn would
    otherwise give each of the two clients the same one every time.
    """
    own, others = one(), set[int]()
    for _ in range(ROUNDS):
        others.add(other())
        if one() != own or one() != own or own in others or len(others) > 1:
            return True
    return False


def refused(where: str) -> SetupError:
    """That such a pool was found ``where``. It concerns every load, and passes when the address is another."""
    return SetupError(
        f"{where} is a pool that shares its connections between clients (PgBouncer with pool_mode transaction or "
        "statement or without server_reset_query, or RDS Proxy), and a load's lock does not last there; connect to "
        "PostgreSQL itself, or to a pool with pool_mode = session"
    )
