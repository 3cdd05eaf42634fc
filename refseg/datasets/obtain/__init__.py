"""Obtaining data sets: download, unpack, read parquet files, count and check."""
