"""What happens around every call, one concern per file; `chain.py` makes one gRPC interceptor of them.

From the outside in: tracing, log context, metrics, errors, connections, auth, limits, deadlines, validation.
"""

from services.common.interceptors.auth import AuthInterceptor
from services.common.interceptors.chain import Chain, Interceptor
from services.common.interceptors.deadlines import DeadlineInterceptor
from services.common.interceptors.errors import ErrorInterceptor
from services.common.interceptors.limits import Gate, LimitInterceptor
from services.common.interceptors.lines import LineInterceptor
from services.common.interceptors.logs import LogInterceptor
from services.common.interceptors.metrics import CallMetrics, MetricsInterceptor
from services.common.interceptors.tracing import TracingInterceptor
from services.common.interceptors.validation import ValidationInterceptor, Validator

__all__ = [
    "AuthInterceptor",
    "CallMetrics",
    "Chain",
    "DeadlineInterceptor",
    "ErrorInterceptor",
    "Gate",
    "Interceptor",
    "LimitInterceptor",
    "LineInterceptor",
    "LogInterceptor",
    "MetricsInterceptor",
    "TracingInterceptor",
    "ValidationInterceptor",
    "Validator",
]
