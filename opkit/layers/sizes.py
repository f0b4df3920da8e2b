"""What layers, fields and operators ask of their sizes."""


def check_sizes(**sizes: int) -> None:
    """Raise `ValueError` for a size below one."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"`{name}` is {size}; expected at least 1.")
