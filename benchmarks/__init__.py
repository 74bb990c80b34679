"""What a request costs in the process in front of the model server, beside nginx's plain proxy.

CPU time (user and system) of the process in front, per request or per streamed chunk; not latency,
and not the CPU time of the load generator or of the upstream server. ``python -m benchmarks``.
"""
