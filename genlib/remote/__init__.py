"""Files at URLs: clients of object stores and web servers, retries, ranges of bytes."""
