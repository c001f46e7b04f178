"""The failures of what proves a case say what they compare."""

import pytest

pytest.register_assert_rewrite("tests.bad_input.proving")
