"""A target of a parser that is not there."""

import kappamask_stream.no_such_parser  # noqa: F401
