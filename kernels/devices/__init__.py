"""Work on a device: transfers that wait for nothing, side streams, compiled loops, a CPU's
workers.
"""
