"""Decodes one Parquet file in a process of its own: on a damaged file, pyarrow may end the process that it runs in.

Run by `safehold.data.parquet_table` as a script, never imported; it knows numpy and pyarrow alone. First comes a line
on standard input with what to open, and a line goes out with the table's head; then a line comes with the columns that
are wanted, and each batch of rows goes out as a line and the bytes that it announces.
"""

import json
import sys

BATCH = 65_536  # rows that are decoded at once
THRIFT = 16 * 2**20  # bytes of one text, and entries of one list, in the footer


def main() -> None:
    """One file, from its head to its last batch."""
    asked = json.loads(sys.stdin.readline())
    sys.path[:] = asked["sys_path"]
    _limit(asked["seconds"], asked["bytes"])
    try:
        _serve(asked["path"])
    except MemoryError:
        _say({"error": "memory"})
    except Exception as error:  # whatever it is, it is said in words, and the reader makes a typed error of it
        _say({"error": "broken", "said": " ".join(str(error).split())[:300]})


def _serve(path: str) -> None:
    from pyarrow import parquet

    with parquet.ParquetFile(
        path,
        memory_map=False,
        pre_buffer=False,
        thrift_string_size_limit=THRIFT,
        thrift_container_size_limit=THRIFT,
        page_checksum_verification=True,
    ) as file:
        schema = file.schema_arrow
        # of the footer nothing else is asked: on a damaged one, row groups and column chunks end the process
        _say(
            {
                "names": [str(name) for name in schema.names],
                "types": [str(kind)[:100] for kind in schema.types],
                "rows": int(file.metadata.num_rows),
            }
        )
        wanted = json.loads(sys.stdin.readline())
        numbers, key = wanted["numbers"], wanted["key"]
        for batch in file.iter_batches(BATCH, columns=list(dict.fromkeys((*numbers, key))), use_threads=False):
            _send(batch, numbers, key)
        _say({"done": True})


def _send(batch: object, numbers: list[str], key: str) -> None:
    """One batch: a line, then for each column its values and one byte a row that says whether it is null."""
    import numpy as np

    dtypes, payload = [], []
    for name in numbers:
        column = batch.column(name)  # type: ignore[attr-defined]
        blank = np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=np.bool_)
        filled = column.fill_null(False if str(column.type) == "bool" else 0) if blank.any() else column
        values = np.ascontiguousarray(filled.to_numpy(zero_copy_only=False))
        dtypes.append(values.dtype.str)
        payload += [values.tobytes(), blank.tobytes()]
    labels = batch.column(key).to_pylist()  # type: ignore[attr-defined]
    _say({"rows": batch.num_rows, "dtypes": dtypes, "labels": labels})  # type: ignore[attr-defined]
    for part in payload:
        sys.stdout.buffer.write(part)


def _say(message: dict[str, object]) -> None:
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


def _limit(seconds: int, size: int) -> None:
    """Bounds of processor time and of memory, where the system has them."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
