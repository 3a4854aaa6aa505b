"""Products spread over several processes, where one event loop is the limit.

The parent shows progress, keeps the catalogues and gives turns; each child masks products as a run of one process does.
"""

from kappamask_stream.processes.crew import Crew
from kappamask_stream.processes.spread import mask_in_processes

__all__ = ["Crew", "mask_in_processes"]
