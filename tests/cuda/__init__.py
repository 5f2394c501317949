"""What only a GPU can show. Collected where there is one (``tests/conftest.py``): ``pytest tests/cuda``."""
