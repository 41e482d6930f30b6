"""Clips: from and to video files, and the datasets they come from."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidmarl.data.base import ClipDataset, ClipFile, ClipSource
    from vidmarl.data.encode import mp4_bytes, side_by_side, write_lossless, write_mp4
    from vidmarl.data.folder import Folder
    from vidmarl.data.hmdb51 import HMDB51
    from vidmarl.data.kinetics import Kinetics
    from vidmarl.data.module import ClipData
    from vidmarl.data.paths import data_path, data_root
    from vidmarl.data.ucf101 import UCF101
    from vidmarl.data.video import decode, load_clips, read_video
    from vidmarl.data.weizmann import Weizmann

_HOMES = {
    "ClipData": "module",
    "ClipDataset": "base",
    "ClipFile": "base",
    "ClipSource": "base",
    "Folder": "folder",
    "HMDB51": "hmdb51",
    "Kinetics": "kinetics",
    "UCF101": "ucf101",
    "Weizmann": "weizmann",
    "data_path": "paths",
    "data_root": "paths",
    "decode": "video",
    "load_clips": "video",
    "mp4_bytes": "encode",
    "read_video": "video",
    "side_by_side": "encode",
    "write_lossless": "encode",
    "write_mp4": "encode",
}

__all__ = [
    "HMDB51",
    "UCF101",
    "ClipData",
    "ClipDataset",
    "ClipFile",
    "ClipSource",
    "Folder",
    "Kinetics",
    "Weizmann",
    "data_path",
    "data_root",
    "decode",
    "load_clips",
    "mp4_bytes",
    "read_video",
    "side_by_side",
    "write_lossless",
    "write_mp4",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vidmarl.data' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"vidmarl.data.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
