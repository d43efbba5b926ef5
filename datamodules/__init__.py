"""Data for guardrails: samples, policies, media, public data sets and the DataModules that serve them."""

from datamodules.audio import AudioDataModule
from datamodules.base import GuardDataModule
from datamodules.image import ImageDataModule
from datamodules.omni import OmniDataModule
from datamodules.policyguard import PolicyGuardBench
from datamodules.schema import DataError, MediaError, Message, Part, Policy, PolicyEntry, Sample
from datamodules.text import TextDataModule
from datamodules.video import VideoDataModule

__all__ = [
    "AudioDataModule",
    "DataError",
    "GuardDataModule",
    "ImageDataModule",
    "MediaError",
    "Message",
    "OmniDataModule",
    "Part",
    "Policy",
    "PolicyEntry",
    "PolicyGuardBench",
    "Sample",
    "TextDataModule",
    "VideoDataModule",
]
