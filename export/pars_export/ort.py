"""onnxruntime without the telemetry that its builds send to their maker unless told otherwise.

From 1.32 on it does so by a thread of its own, below Python, and keeps an identifier of the machine
in the user's cache. Whoever uses onnxruntime here takes it from this module: the variable is read
when the library starts. Who sets it to 0 keeps telemetry; where a program has imported onnxruntime
already, that stays as it is.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as onnxruntime  # after the variable; for others
