"""How many machines a load needs: measured figures from files, arithmetic without rounding until the last step."""

from kappamask_stream.capacity.bench_file import read_bench
from kappamask_stream.capacity.cost import Cost, Prices, cost_of
from kappamask_stream.capacity.figures import BenchFigures, Figure, joined
from kappamask_stream.capacity.load import Load
from kappamask_stream.capacity.plan import CapacityPlan, plan_capacity

__all__ = [
    "BenchFigures",
    "CapacityPlan",
    "Cost",
    "Figure",
    "Load",
    "Prices",
    "cost_of",
    "joined",
    "plan_capacity",
    "read_bench",
]
