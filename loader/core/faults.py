"""What may go wrong in PostgreSQL and S3, in one table: of each code, whether the same again may succeed.

"The same again" is the same call with nothing changed by anybody. Where the answer is not obvious, the reason stands
beside the code. What is wrong with *records* has its own lists (`loader.postgres.merging.constraints`,
`loader.core.report`); all of that is permanent here. A code that is not in the table counts as permanent, and a text of
libpq's as transient.

To repeat is always safe, also where it is unknown whether a commit came through (08007, 40003): what a load changes
and its entry in the ledger are one transaction.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from enum import Enum


class Nature(Enum):
    """What a fault does to the work under way."""

    LOST = "lost"
    """Transient, but the session is gone or of no use: the same needs a new connection."""
    AGAIN = "again"
    """Transient: the same may succeed after a pause of seconds, in the same session."""
    LATER = "later"
    """Transient, but seconds will not do; a later call may succeed."""
    CHANGED = "changed"
    """The object is not the one that was opened. The same call reads the one that is there now."""
    MISSING = "missing"
    """Permanent: it is not there, or may not be seen."""
    TABLE = "table"
    """Permanent: the statement does not fit the tables that there are."""
    REFUSED = "refused"
    """Permanent, for any other reason."""


_TRANSIENT = frozenset({Nature.LOST, Nature.AGAIN, Nature.LATER, Nature.CHANGED})


@dataclass(frozen=True, slots=True)
class Fault:
    """``code``: a SQLSTATE or its class, an error code of S3, an HTTP status or its first digit.

    ``text``: a pattern that the message must match; for libpq, which tells no SQLSTATE of a connection that fails, it
    is all there is to go by, and ``code`` is the SQLSTATE that the server had said, "" where no server spoke.
    """

    source: str
    code: str
    nature: Nature
    meaning: str
    text: str = ""

    @property
    def transient(self) -> bool:
        """Whether the same again may succeed."""
        return self.nature in _TRANSIENT

    @property
    def soon(self) -> bool:
        """Whether it may do so within seconds, so that it is worth trying within the same call."""
        return self.nature in (Nature.LOST, Nature.AGAIN)


_LOST, _AGAIN, _LATER, _TABLE, _REFUSED = Nature.LOST, Nature.AGAIN, Nature.LATER, Nature.TABLE, Nature.REFUSED
_MISSING, _CHANGED = Nature.MISSING, Nature.CHANGED

POSTGRESQL = "PostgreSQL's manual, appendix A"
_POSTGRESQL = (
    ("08", _LOST, "the connection broke, or could not be made"),
    ("0A", _REFUSED, "PostgreSQL cannot do that"),
    ("22", _REFUSED, "a value is refused"),
    ("23", _REFUSED, "a constraint is violated"),
    ("25", _REFUSED, "the transaction is not in a state for that"),
    ("25006", _LOST, "the server takes no writes: a standby, perhaps since a failover"),
    ("25P03", _LOST, "the session was idle in a transaction for too long, as that of a process that was frozen"),
    ("25P04", _LOST, "the transaction took too long"),
    ("28", _REFUSED, "the server does not let this role in"),
    ("28P01", _REFUSED, "the password is wrong"),
    ("3D", _REFUSED, "there is no such database"),
    ("3F", _REFUSED, "there is no such schema"),
    ("40", _AGAIN, "the transaction was rolled back because of others under way"),
    ("40002", _REFUSED, "a constraint is violated at the end of the transaction"),
    ("40003", _LOST, "it is unknown whether the statement came to its end"),
    ("42", _TABLE, "the table, its columns or the role's rights do not fit"),
    ("44", _REFUSED, "a view's check option is violated"),
    ("53", _AGAIN, "the server is short of resources"),
    ("53100", _LATER, "the server's disk is full"),  # others' temporary files go, storage grows: not within seconds
    ("53200", _AGAIN, "the server is out of memory, or of room for locks"),
    ("53300", _LOST, "all connections that the server allows are taken"),
    ("53400", _REFUSED, "a limit of the server's configuration is exceeded"),  # temp_file_limit: the same needs as much
    ("54", _REFUSED, "a limit of PostgreSQL is exceeded"),
    ("55", _REFUSED, "an object is not in a state for that"),
    # what raises it is this very session (a table with trigger events pending, a cursor open), so it will again
    ("55006", _REFUSED, "an object is in use"),
    ("55P03", _AGAIN, "a lock was not to be had in time"),
    ("57", _LOST, "the server ended the session"),
    # statement_timeout, or somebody's pg_cancel_backend: the same takes as long again, and whoever wanted it ended
    # wants so still. That the load's own time is up is for the caller to see, who set the timeout.
    ("57014", _REFUSED, "the statement was cancelled, or took longer than statement_timeout"),
    ("57P01", _LOST, "the server was shut down, or an administrator ended the session"),
    ("57P02", _LOST, "another of the server's processes crashed"),
    ("57P03", _LOST, "the server is starting, stopping or recovering"),
    ("57P04", _REFUSED, "the database was dropped"),
    ("57P05", _LOST, "the session was idle for too long"),
    ("58", _AGAIN, "the server's machine failed to do something"),
    ("58P01", _REFUSED, "the server lacks a file"),  # most often an extension's library
    ("58P02", _REFUSED, "the server has a file that should not be"),
    ("58P03", _REFUSED, "a file's name is too long for the server"),
    ("72", _AGAIN, "the snapshot is too old"),
    ("F0", _REFUSED, "the server's configuration is broken"),
    ("HV", _REFUSED, "a foreign table cannot do that"),
    ("HV00N", _AGAIN, "a foreign table's server cannot be reached"),
    ("P0", _REFUSED, "a function refused"),
    ("XX", _REFUSED, "PostgreSQL met a state that should not be"),
    ("XX001", _REFUSED, "data on the server are damaged"),
    ("XX002", _REFUSED, "an index on the server is damaged"),
    # somebody changed the table's definition or rights meanwhile; these messages are never translated (elog)
    (
        "XX000",
        _AGAIN,
        "the catalog was changed meanwhile",
        r"tuple concurrently (updated|deleted)|cache lookup failed for|could not open relation with OID",
    ),
)

LIBPQ = "libpq's messages (fe-connect.c, fe-secure-openssl.c), and the server's before a session (postinit.c, auth.c)"
_LIBPQ = (
    ("28P01", _REFUSED, "the password is wrong", r"authentication failed|no password supplied"),
    ("28000", _REFUSED, "the role cannot log in", r'role ".*" (does not exist|is not permitted to log in)'),
    ("28000", _REFUSED, "the server's pg_hba.conf lets nobody in like this", r"pg_hba\.conf"),
    ("3D000", _REFUSED, "there is no such database", r'database ".*" does not exist'),
    ("42501", _REFUSED, "the role may not use the database", r"permission denied for database"),
    ("55000", _REFUSED, "the database is closed to all", r"is not currently accepting connections"),
    ("53300", _LOST, "all connections that the server allows are taken",
     r"too many (clients|connections)|connection slots are reserved"),
    ("53200", _LOST, "the server is out of memory, or of room for locks", r"out of (shared )?memory"),
    ("57P03", _LOST, "the server is starting, stopping or recovering",
     r"the database system is (starting up|shutting down|in recovery mode|not )"),
    ("25006", _LOST, "the server takes no writes: a standby, perhaps since a failover",
     r"session is read-only|server is in hot standby mode"),
    ("57014", _LOST, "the server took too long to let the session in", r"canceling authentication due to timeout"),
    ("", _REFUSED, "the server's certificate is not to be trusted",
     r"certificate verify failed|does not match host name|host name must be specified for a verified"),
    ("", _REFUSED, "a certificate or key cannot be used",
     r"root certificate|(certificate|private key) file|certificate present|could not (load|read) .*(certificate|key)"),
    ("", _REFUSED, "client and server cannot agree on TLS",
     r"SSL was required|SSL error: .*(alert|unsupported protocol|wrong version number|no shared cipher|no protocols)"),
    ("", _REFUSED, "client and server cannot agree on how to authenticate",
     r"channel binding (is )?required|authentication method .* (failed|not supported)|authentication requirement"),
    ("", _REFUSED, "the connection's parameters are wrong",
     r"invalid (\S+ )?(value|port number|integer value|connection option|URI)|could not match \d+"),
    ("", _REFUSED, "a pooler does not take a parameter: leave it out, or add it to ignore_startup_parameters",
     r"unsupported startup parameter"),
    ("", _REFUSED, "the server's socket may not be used", r"failed: Permission denied"),
    ("", _REFUSED, "what answers there is no PostgreSQL",
     r"expected authentication request|invalid response to (SSL|GSSAPI) negotiation"),
    ("", _LOST, "the host's name cannot be found out", r"could not translate host name"),
    ("", _LOST, "nobody answers there", r"Connection refused|No such file or directory"),
    ("", _LOST, "the server does not answer",
     r"timeout expired|timed out|[Nn]o route to host|Network is unreachable|Host is down"),
    ("", _LOST, "the connection broke",
     r"closed the connection|Connection reset|EOF detected|unexpected eof|Broken pipe"),
)  # fmt: skip

AWS = 'Amazon S3 API Reference, "Error responses"; "Common errors" of all AWS services; AWS KMS and Secrets Manager'
_AWS = (
    ("SlowDown", _AGAIN, "S3 wants fewer requests"),
    ("InternalError", _AGAIN, "S3 failed"),
    ("InternalFailure", _AGAIN, "the service failed"),
    ("InternalServiceError", _AGAIN, "the service failed"),
    ("ServiceUnavailable", _AGAIN, "the service is busy"),
    ("RequestTimeout", _AGAIN, "the connection was idle for too long"),
    ("RequestTimeoutException", _AGAIN, "the connection was idle for too long"),
    ("PriorRequestNotComplete", _AGAIN, "an earlier request is under way"),
    ("TemporaryRedirect", _AGAIN, "the bucket is on its way to another place"),
    ("OperationAborted", _AGAIN, "another request for the bucket is under way"),
    (
        "RequestTimeTooSkewed",
        _AGAIN,
        "the request came late, or a clock is wrong",
    ),  # a thawed process: it is signed anew
    ("RequestExpired", _AGAIN, "the request came late, or a clock is wrong"),
    ("Throttling", _AGAIN, "the service wants fewer requests"),
    ("ThrottlingException", _AGAIN, "the service wants fewer requests"),
    ("ThrottledException", _AGAIN, "the service wants fewer requests"),
    ("RequestThrottled", _AGAIN, "the service wants fewer requests"),
    ("RequestThrottledException", _AGAIN, "the service wants fewer requests"),
    ("RequestLimitExceeded", _AGAIN, "the service wants fewer requests"),
    ("TooManyRequests", _AGAIN, "the service wants fewer requests"),
    ("TooManyRequestsException", _AGAIN, "the service wants fewer requests"),
    ("BandwidthLimitExceeded", _AGAIN, "the service sends no more bytes for now"),
    ("LimitExceededException", _AGAIN, "the service wants fewer requests"),
    ("ProvisionedThroughputExceededException", _AGAIN, "the service wants fewer requests"),
    ("TransactionInProgressException", _AGAIN, "an earlier request is under way"),
    ("EC2ThrottledException", _AGAIN, "the service wants fewer requests"),
    ("KMS.ThrottlingException", _AGAIN, "KMS wants fewer requests"),
    ("KMS.DependencyTimeoutException", _AGAIN, "KMS was too slow"),
    ("KMS.KMSInternalException", _AGAIN, "KMS failed"),
    ("KMS.InternalException", _AGAIN, "KMS failed"),
    ("KMS.KeyUnavailableException", _AGAIN, "KMS cannot reach the key now"),
    ("KMS.DisabledException", _REFUSED, "the object's key is disabled"),
    ("KMS.KMSInvalidStateException", _REFUSED, "the object's key is in no state to be used"),
    ("KMS.InvalidKeyUsageException", _REFUSED, "the object's key is none for this"),
    ("KMS.NotFoundException", _REFUSED, "the object's key is gone"),
    ("NoSuchBucket", _MISSING, "there is no such bucket"),
    ("NoSuchKey", _MISSING, "there is no such object"),
    ("NoSuchVersion", _MISSING, "there is no such version"),
    ("MethodNotAllowed", _MISSING, "was deleted; this version only marks that"),
    ("AccessDenied", _MISSING, "does not exist, or there is no permission to see it"),
    ("AllAccessDisabled", _REFUSED, "AWS has closed the bucket"),
    ("AccountProblem", _REFUSED, "there is a problem with the account"),
    ("InvalidObjectState", _REFUSED, "the object is archived and must be restored first"),
    ("PreconditionFailed", _CHANGED, "the object is another by now"),
    ("InvalidRange", _CHANGED, "the object is shorter by now"),
    ("PermanentRedirect", _REFUSED, "the bucket is at another endpoint"),
    ("AuthorizationHeaderMalformed", _REFUSED, "the request is signed for another region"),
    ("IllegalLocationConstraintException", _REFUSED, "the bucket is in another region"),
    # credentials that expired were not renewed by then, so they are such that nobody renews in this process
    ("ExpiredToken", _REFUSED, "the credentials have expired"),
    ("ExpiredTokenException", _REFUSED, "the credentials have expired"),
    ("TokenRefreshRequired", _REFUSED, "the credentials have expired"),
    ("InvalidAccessKeyId", _REFUSED, "the access key does not exist"),
    ("InvalidToken", _REFUSED, "the session token is wrong"),
    ("InvalidSecurity", _REFUSED, "the credentials are wrong"),
    ("SignatureDoesNotMatch", _REFUSED, "the secret key is wrong"),
    ("UnrecognizedClientException", _REFUSED, "the credentials are wrong"),
    ("InvalidClientTokenId", _REFUSED, "the credentials are wrong"),
    ("InvalidRequest", _REFUSED, "the request is none"),
    ("InvalidArgument", _REFUSED, "the request is none"),
    ("InvalidBucketName", _REFUSED, "the bucket's name is none"),
    ("KeyTooLongError", _REFUSED, "the key is too long"),
    ("NotImplemented", _REFUSED, "the store cannot do that"),  # of status 501
    ("AccessDeniedException", _REFUSED, "there is no permission"),
    ("ResourceNotFoundException", _REFUSED, "there is no such secret"),
    ("DecryptionFailure", _REFUSED, "the secret's key cannot be used"),
)

HTTP = "RFC 9110, section 15, as S3 uses it: a HEAD's error has no body, and its status is all there is"
_HTTP = (
    ("3", _REFUSED, "it is elsewhere"),
    ("307", _AGAIN, "the bucket is on its way to another place"),
    ("4", _REFUSED, "the request is refused"),
    ("403", _MISSING, "does not exist, or there is no permission to see it"),
    ("404", _MISSING, "there is no such object"),
    ("405", _MISSING, "was deleted; this version only marks that"),
    ("408", _AGAIN, "the request took too long"),
    ("412", _CHANGED, "the object is another by now"),
    ("416", _CHANGED, "the object is shorter by now"),
    ("429", _AGAIN, "there were too many requests"),
    ("5", _AGAIN, "the service failed"),
    ("501", _REFUSED, "the store cannot do that"),
    ("505", _REFUSED, "the store does not speak this HTTP"),
)

OPENSSL = "OpenSSL's messages, as Python passes them on"
_OPENSSL = (("", _REFUSED, "the service's certificate is not to be trusted", r"CERTIFICATE_VERIFY_FAILED"),)

FAULTS: tuple[Fault, ...] = tuple(
    Fault(source, *row)
    for source, rows in (
        (POSTGRESQL, _POSTGRESQL),
        (LIBPQ, _LIBPQ),
        (AWS, _AWS),
        (HTTP, _HTTP),
        (OPENSSL, _OPENSSL),
    )
    for row in rows
)
"""The table. Within a source a longer code goes before its class, one with a text before the same without."""

_UNKNOWN_STATE = Fault(POSTGRESQL, "", _REFUSED, "PostgreSQL refused")
_UNKNOWN_TEXT = Fault(LIBPQ, "", _LOST, "the connection broke, or could not be made")
_UNKNOWN_ANSWER = Fault(HTTP, "", _REFUSED, "the service refused")
_NO_ANSWER = Fault(HTTP, "", _AGAIN, "the service did not answer")

_BY_CODE = {(each.source, each.code): each for each in FAULTS if not each.text}
_BY_TEXT = tuple((each, re.compile(each.text)) for each in FAULTS if each.text)


def of_sqlstate(code: str, message: str = "") -> Fault:
    """What PostgreSQL's error means, by its SQLSTATE, else its class."""
    return (
        _of_text(POSTGRESQL, message, code)
        or _BY_CODE.get((POSTGRESQL, code))
        or _BY_CODE.get((POSTGRESQL, code[:2]), _UNKNOWN_STATE)
    )


def of_libpq(text: str) -> Fault:
    """What it means that a connection failed, by libpq's text in English.

    Of several addresses it tells one after the other, and goes on to the next only where one did not let it in for
    a reason that may be this one's alone: so the last word counts.
    """
    return _of_text(LIBPQ, text.rpartition("connection to server ")[2]) or _UNKNOWN_TEXT


def of_aws(code: str, status: int) -> Fault:
    """What an AWS service's refusal means: by its error code, else its HTTP status, else the class of that."""
    return (
        _BY_CODE.get((AWS, code))
        or _BY_CODE.get((HTTP, str(status)))
        or _BY_CODE.get((HTTP, str(status)[:1]), _UNKNOWN_ANSWER)
    )


def of_silence(text: str) -> Fault:
    """What it means that an AWS service gave no answer, or not to its end, by the message of whoever noticed."""
    return _of_text(OPENSSL, text) or _NO_ANSWER


def _of_text(source: str, text: str, code: str | None = None) -> Fault | None:
    return next(
        (
            fault
            for fault, pattern in _BY_TEXT
            if fault.source == source and code in (None, fault.code) and pattern.search(text)
        ),
        None,
    )


FIRST_PAUSE = 0.5
LONGEST_PAUSE = 20.0
"""Seconds. A failover of RDS takes one to two minutes: six pauses of these are a minute on average."""


def backoff(attempt: int, *, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> float:
    """Seconds to pause after ``attempt`` (from 0) failed: at most ``first``, doubled each time, up to ``longest``.

    A random share of that, down to none ("full jitter"): those who failed together do not come back together
    (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """
    return random.uniform(0, min(longest, first * 2 ** min(attempt, 32)))  # noqa: S311 - jitter, not a secret


def is_servers(sqlstate: str) -> bool:
    """Whether this is about the server, never about a value. Others may be: regclass says 42P01, hstore XX000."""
    return of_sqlstate(sqlstate).transient or sqlstate.startswith(("53", "57", "58", "XX001", "XX002"))
