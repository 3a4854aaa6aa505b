"""A page for people about one mask: the scene with the mask over it, and how it was made."""

from kappamask_stream.report.extra import ReportExtra

__all__ = ["ReportExtra"]
