"""Properties explain themselves as tests do."""

import pytest

pytest.register_assert_rewrite("tests.chart.properties")
