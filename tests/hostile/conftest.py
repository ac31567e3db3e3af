"""Servers of object stores."""

from object_stores import gs, gs_server, memory, new_bucket, s3, s3_server

__all__ = ["gs", "gs_server", "memory", "new_bucket", "s3", "s3_server"]
