"""Queues and topics: SQS and SNS behind small interfaces."""

from kappamask_stream.queues.burial import dead_letter_of, dead_letter_queue_of, send_dead_letter
from kappamask_stream.queues.clients import QueueClients
from kappamask_stream.queues.looking import peek
from kappamask_stream.queues.options import QueueOptions, queue_options, queue_url
from kappamask_stream.queues.redriving import Moved, redrive
from kappamask_stream.queues.sinks import open_sink
from kappamask_stream.queues.sns import SnsTopic
from kappamask_stream.queues.sqs import SqsQueue
from kappamask_stream.queues.types import Draft, Message, Queue, QueueStats, Sink

__all__ = [
    "Draft",
    "Message",
    "Moved",
    "Queue",
    "QueueClients",
    "QueueOptions",
    "QueueStats",
    "Sink",
    "SnsTopic",
    "SqsQueue",
    "dead_letter_of",
    "dead_letter_queue_of",
    "open_sink",
    "peek",
    "queue_options",
    "queue_url",
    "redrive",
    "send_dead_letter",
]
