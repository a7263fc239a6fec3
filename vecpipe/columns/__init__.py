"""Arrow columns to matrices and back: NULLs, ragged rows and dtypes are decided here and nowhere else.

Everything downstream sees a C-contiguous ``(n, d)`` matrix of ``vecpipe.arrays`` and a mask of the rows that count.
"""
