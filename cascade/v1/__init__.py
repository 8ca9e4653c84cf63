"""Version 1 of the contracts: messages in `*_pb2`, clients and servers in `*_pb2_grpc`.

The manual is in the comments of `proto/cascade/v1/*.proto`, which the stubs' types repeat.
"""
