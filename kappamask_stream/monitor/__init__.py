"""Looking on while a worker works: metrics, log, health and a status page."""

from kappamask_stream.monitor.log import configure_log
from kappamask_stream.monitor.log_observer import LogObserver
from kappamask_stream.monitor.monitor import Monitor

__all__ = ["LogObserver", "Monitor", "configure_log"]
