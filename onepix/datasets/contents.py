"""What a file is, by its first bytes, for messages about files that are not what they are taken for."""

from pathlib import Path

LENGTH = 512  # bytes that are looked at
# What a file begins with, after leading blanks of text, and what it then is, with the cure where there is one.
BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer, which stands for the file itself; run: git lfs pull"),
    (b"<!doctype html", "a web page, perhaps of a download that failed"),
    (b"<html", "a web page, perhaps of a download that failed"),
    (b"<?xml", "an XML file"),
    (b"<svg", "an SVG drawing, which has no pixels"),
    (b"%pdf", "a PDF document"),
    (b"\x89hdf", "an HDF5 file (.h5, .keras of old, or .mat of MATLAB 7.3)"),
    (b"matlab 5", "a MATLAB file; scipy.io.loadmat reads it"),
    (b"par1", "a Parquet file"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"\xfd7zxz", "compressed by xz; unpack it first"),
    (b"bzh", "compressed by bzip2; unpack it first"),
    (b"rar!", "a RAR archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it first"),
    (b"\x93numpy", "one bare NumPy array (.npy)"),
    (b"\x80\x02", "a Python pickle, which is never opened, since it may run any code"),
    (b"\x80\x03", "a Python pickle, which is never opened, since it may run any code"),
    (b"\x80\x04", "a Python pickle, which is never opened, since it may run any code"),
    (b"\x80\x05", "a Python pickle, which is never opened, since it may run any code"),
    (b"pk\x03\x04", "a ZIP archive, or a format made of one (.npz, .xlsx, .pt, .keras)"),
)
CONTAINERS = {  # the first brands of the container of pictures and videos
    b"HEIC": (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"),
    b"AVIF": (b"avif", b"avis"),
}


def kind_of(path: Path) -> str:
    """Return what a file is, with an article and perhaps a cure; empty if that is not known."""
    try:
        with path.open("rb") as opened:
            start = opened.read(LENGTH)
    except OSError:
        return ""
    return kind(start)


def kind(start: bytes) -> str:
    """Return what a file is that begins like this; empty if that is not known."""
    if not start:
        return "an empty file"
    if start[4:8] == b"ftyp":
        for name, brands in CONTAINERS.items():
            if start[8:12] in brands:
                return f"a picture in {name.decode()}, which is not read; convert it to PNG or JPEG"
        return "a video"
    bare = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((said for beginning, said in BEGINNINGS if bare.startswith(beginning)), "")
