"""Datasets, augmentation and the loader; needs NumPy, and of the engine the generator and the registry of kernels."""

from __future__ import annotations

from swinpy.data.augment import Augment, Evaluate
from swinpy.data.catalog import DATASETS, load_dataset
from swinpy.data.cifar.layouts import CIFAR10, CIFAR100, CifarFormat, load_cifar, write_cifar_binary
from swinpy.data.dataset import ImageDataset, channel_stats
from swinpy.data.digits import load_digits
from swinpy.data.errors import DatasetCorrupt, DatasetMissing
from swinpy.data.folder.decode import BadImage, open_image, prepare
from swinpy.data.folder.images import FolderImages
from swinpy.data.folder.scan import FolderOptions, load_folder
from swinpy.data.loader import Batch, BatchLoader, Loader, Transform
from swinpy.data.pixels import normalise
from swinpy.data.scenes.draw import SCENE_CLASSES, Scenes, generate
from swinpy.data.scenes.files import load_scenes

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "DATASETS",
    "SCENE_CLASSES",
    "Augment",
    "BadImage",
    "Batch",
    "BatchLoader",
    "CifarFormat",
    "DatasetCorrupt",
    "DatasetMissing",
    "Evaluate",
    "FolderImages",
    "FolderOptions",
    "ImageDataset",
    "Loader",
    "Scenes",
    "Transform",
    "channel_stats",
    "generate",
    "load_cifar",
    "load_dataset",
    "load_digits",
    "load_folder",
    "load_scenes",
    "normalise",
    "open_image",
    "prepare",
    "write_cifar_binary",
]
