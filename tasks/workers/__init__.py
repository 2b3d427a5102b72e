"""Shards of images on other processes and machines: Dask workers, by way of prefect-dask."""
