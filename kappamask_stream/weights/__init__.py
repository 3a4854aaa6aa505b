"""KappaMask's published weights: which files there are, fetching them, and the cache that vouches for them."""

from kappamask_stream.weights.cache import Record, WeightsCache
from kappamask_stream.weights.catalogue import LICENCE, PUBLISHED, PublishedWeights, of_model

__all__ = ["LICENCE", "PUBLISHED", "PublishedWeights", "Record", "WeightsCache", "of_model"]
