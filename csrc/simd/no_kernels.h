// A kernel file without kernels, for editor.h.
