"""km_predict's configuration and flags, and what they mean here. Source: km_predict 2.4, km_predict.py. Pure."""

from kappamask_stream.km_predict.config import KmConfig, parse_config
from kappamask_stream.km_predict.translate import KmFlags, KmJob, Note, translate

__all__ = ["KmConfig", "KmFlags", "KmJob", "Note", "parse_config", "translate"]
