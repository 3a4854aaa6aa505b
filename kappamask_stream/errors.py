"""Every error this package raises on purpose, in one tree by cause.

    KappaMaskError
    ├── UsageError            exit 2   the command line or the settings ask for something impossible
    ├── InputError            exit 3   a product or weights cannot be read: missing, incomplete or damaged
    │   ├── ProductError               directory, names, XML, bands, checksums
    │   ├── CodestreamError            a JPEG 2000 file is truncated or corrupt
    │   ├── MessageError               a queue's message is in no known form, or names no product
    │   └── StoreError                 an object store or HTTP server refuses
    │       ├── StoreCredentialsError  credentials are missing, unknown or expired, or its certificate is not accepted
    │       ├── StoreAccessError       it denies access to one object: no permission, or none of this name
    │       ├── StoreChangedError      (retryable) an object or file was replaced while it was read
    │       └── StoreUnavailableError  (retryable) it cannot be reached, is overloaded, or breaks off
    ├── ServerError           exit 4   Triton is not there, refuses or answers nonsense
    │   ├── ServerSetupError           the local server cannot be installed or started
    │   ├── ContractError              the model on the server is not the one this client can use
    │   │   └── ModelChangedError      (retryable) another model was deployed under the name meanwhile
    │   ├── ServerUnavailableError     (retryable) nobody answers at the endpoint
    │   ├── ServerOverloadedError      (retryable) the server's queue is full
    │   ├── InferenceTimeoutError      (retryable) no answer within `infer_timeout_s`
    │   ├── ServerFaultError           the server failed: its GPU, its memory, or the model
    │   ├── CanaryError                it answers a tile whose answer is known wrongly
    │   └── InferenceError             its answer for a tile is unusable: values that are not finite, say
    │       └── AnswerError            no answer to any tile looks like this: the server's fault, not the tile's
    ├── OutputError           exit 5   the mask cannot be written: no space, no permission, name taken
    │   └── OutputUnavailableError     (retryable) the store for outputs cannot be reached, or is overloaded
    ├── QueueError            exit 6   a queue or topic refuses: there is none of this name, say
    │   ├── QueueAccessError           no permission
    │   ├── MessageRefusedError        one message cannot be sent: too large, or what it holds
    │   └── QueueUnavailableError      (retryable) it cannot be reached, or is overloaded
    ├── ProcessEndedError     exit 1   (retryable) a process that masked products was killed: out of memory, say
    └── InternalError         exit 1   a fault of this program: any exception that is not of this tree

A message says what, which file, the two numbers and the remedy. Foreign exceptions are translated once,
at the edge where they appear, with ``from``.
"""

from __future__ import annotations


class KappaMaskError(Exception):
    """Base of all errors that a user can act on; ``str(error)`` is one complete message."""

    exit_code = 1
    retryable = False


class UsageError(KappaMaskError):
    """The command line or the settings ask for something impossible."""

    exit_code = 2


class InputError(KappaMaskError):
    """A product, or a file of weights, cannot be read or had."""

    exit_code = 3


class ProductError(InputError):
    """A product's directory, names, XML, bands or checksums are not what Sentinel-2 products have."""


class CodestreamError(InputError):
    """A JPEG 2000 codestream is truncated, corrupt, or contradicts itself."""


class MessageError(InputError):
    """A queue's message is in none of the forms that are understood, or names no product."""


class StoreError(InputError):
    """An object store, or an HTTP server, refuses: no such bucket, no permission, credentials missing or expired."""


class StoreCredentialsError(StoreError):
    """Credentials are missing, unknown to the store or expired, or the store's certificate is not accepted.

    Unlike a refusal of one object, this is no product's fault.
    """


class StoreAccessError(StoreError):
    """A store denies access to an object: no permission, or there is no such object, which some do not tell apart.

    So it may be one product's fault, or that of everything that is read there.
    """


class StoreChangedError(StoreError):
    """An object, or a file, was replaced while it was read: bytes of two versions are not mixed."""

    retryable = True


class StoreUnavailableError(StoreError):
    """A store cannot be reached, is overloaded, or broke off again and again."""

    retryable = True


class ServerError(KappaMaskError):
    """The inference server is missing, refuses, or answers nonsense.

    Attributes
    ----------
    is_of_canary : True where it was the canary that was not answered: the tile that waited for it was not sent.
    """

    exit_code = 4
    is_of_canary = False


class ServerSetupError(ServerError):
    """The local server cannot be installed or started."""


class ContractError(ServerError):
    """A model's contract is unreadable, of another schema, or not what was asked for."""


class ModelChangedError(ContractError):
    """Another model was deployed under the name since this client read the contract: what is begun anew takes it."""

    retryable = True


class ServerUnavailableError(ServerError):
    """Nobody answers at the endpoint."""

    retryable = True


class ServerOverloadedError(ServerError):
    """The server's queue is full: fewer requests in flight, and later."""

    retryable = True


class InferenceTimeoutError(ServerError):
    """A request was not answered in time."""

    retryable = True


class ServerFaultError(ServerError):
    """The server failed on a tile: its GPU, its memory or the model. Whether for this tile, nobody says."""


class InferenceError(ServerError):
    """The answer for a tile is unusable: malformed, or the network gave values that are not finite."""


class AnswerError(InferenceError):
    """The answer is none to any tile: malformed, of classes that nobody knows, or in contradiction with itself."""


class CanaryError(ServerError):
    """The server's answer to the canary, a tile whose answer is known, is wrong: so may all others be."""


class OutputError(KappaMaskError):
    """The mask cannot be written."""

    exit_code = 5


class OutputUnavailableError(OutputError):
    """The store that masks go to cannot be reached, is overloaded, or broke off again and again."""

    retryable = True


class QueueError(KappaMaskError):
    """A queue or topic refuses: there is none of this name, say."""

    exit_code = 6


class QueueAccessError(QueueError):
    """A queue or topic denies access."""


class MessageRefusedError(QueueError):
    """One message cannot be sent, whoever sends it: too large, or it holds what queues do not take."""


class QueueUnavailableError(QueueError):
    """A queue or topic cannot be reached, is overloaded, or broke off again and again."""

    retryable = True


class ProcessEndedError(KappaMaskError):
    """A process that products were handed to ended before they did: it was killed, or the machine is out of memory."""

    retryable = True


class InternalError(KappaMaskError):
    """A fault of this program; the exception that nobody expected is in ``__cause__``."""


def error_kinds() -> dict[str, type[KappaMaskError]]:
    """Return the whole tree by class name: errors travel between processes as a name and a message."""
    kinds: dict[str, type[KappaMaskError]] = {}
    pending: list[type[KappaMaskError]] = [KappaMaskError]
    while pending:
        kind = pending.pop()
        kinds[kind.__name__] = kind
        pending += kind.__subclasses__()
    return kinds
