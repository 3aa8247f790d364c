"""The ops compiled with Numba for this CPU. Imported when `get_ops("numba")` asks for it."""
