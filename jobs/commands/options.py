"""Options that several commands of `artimuse` share, each declared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from artimuse_actor.errors import UsageError

if TYPE_CHECKING:
    from artimuse_actor.images.options import DecodeOptions

# The same as in DecodeOptions, which a test checks: importing it here would import numpy, Pillow and scipy.
MAX_BYTES, MAX_PIXELS = 512 * 1024 * 1024, 178_956_970
DECODER_TIMEOUT_S, DECODER_MEMORY_BYTES = 60.0, 4 * 1024**3


def example(*commands: str) -> str:
    """The epilog of a command's help: example lines below the options, marked so that click does not re-wrap them."""
    return "\b\nexample:\n" + "\n".join(f"  {command}" for command in commands)


def count_or_auto(option: str, text: str) -> Any:
    """Read a whole number from 1, or `auto`.

    Raises:
        UsageError: it is neither; the message names the option.
    """
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{option} takes a whole number from 1 or auto, not {text!r}.")
    return int(text)


def share(option: str, text: str) -> float:
    """Read a percentage, such as `10%`, as a share from 0 to 1.

    Raises:
        UsageError: it is none; the message names the option.
    """
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not text.endswith("%") or not 0 <= percent <= 100:
        raise UsageError(f"{option} takes a percentage from 0% to 100%, not {text!r}.")
    return percent / 100


def decode_options(arguments: Mapping[str, Any]) -> DecodeOptions:
    """How pictures are decoded, by the arguments of a command; `published_arithmetic` reads truncated files, too.

    Raises:
        UsageError: a value is not valid; the message names its option.
    """
    from artimuse_actor.images.options import DecodeOptions

    by_name = {"decoder_timeout_s": "decoder_timeout", "decoder_memory_bytes": "decoder_memory"}
    names = {field.name: by_name.get(field.name, field.name) for field in fields(DecodeOptions)}
    given = {option: arguments[name] for option, name in names.items() if name in arguments}
    given["allow_truncated"] |= arguments["published_arithmetic"]
    return DecodeOptions(**given)


def wanted_texts(texts: bool, attributes: str | None, max_new_tokens: int | None) -> Any:
    """The `WantedTexts` that --texts and its options ask for, or None.

    Raises:
        UsageError: options of texts without --texts.
    """
    from jobs.store.text_request import WantedTexts

    if not texts:
        if attributes is not None or max_new_tokens is not None:
            option = "--attributes" if attributes is not None else "--max-new-tokens"
            raise UsageError(f"{option} is about texts. Add --texts.")
        return None
    names = None if attributes is None else [name.strip() for name in attributes.split(",") if name.strip()]
    return WantedTexts(names, max_new_tokens)


def _list_questions() -> NoReturn:
    from jobs.score.single_images_text import show_questions

    show_questions()
    raise typer.Exit()


Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder or prefix (s3://, gs://, az://) of images, a glob, hf://datasets/owner/name, tar files such as "
        "'{000..009}.tar', a table of paths, urls or images (Parquet, Arrow, CSV or JSON lines: file, folder or glob), "
        "or a benchmark's test.json.",
        show_default=False,
    ),
]
Checkpoint = Annotated[
    str,
    typer.Option(
        metavar="CKPT",
        help="A local, s3://, gs:// or az:// folder; ArtiMuse, ArtiMuse_AVA, ArtiMuse_FLICKR-AES, ArtiMuse_PARA, "
        "ArtiMuse_TAD66K or UniPercept; or owner/name[@revision] on the hub of --hub; modelscope:// before the last "
        "two is that hub, too.",
    ),
]
Hub = Annotated[
    str,
    typer.Option(
        metavar="HUB",
        help="The hub of checkpoints named like ArtiMuse or owner/name: huggingface or modelscope (an extra).",
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="artimuse, unipercept, or a TOML file with questions of your own. [default: guessed from the "
        "checkpoint's name]",
        show_default=False,
    ),
]
Device = Annotated[
    str, typer.Option(help="auto (a GPU if there is one), cpu, cuda (NVIDIA, or AMD with ROCm) or mps (Apple).")
]
Dtype = Annotated[
    str,
    typer.Option(
        help="auto (bfloat16 on CUDA; float32 on cards before Ampere, MPS and the CPU), float32, bfloat16 or float16."
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="Store the language model's weights in fewer bits: int8 or fp8 (half of bfloat16's memory), nf4 (less), "
        "or fp8-products, which also multiplies in 8 bits (faster; Ada, Hopper and later).",
        show_default=False,
    ),
]
AddMixed = Annotated[bool, typer.Option("--allow-mixed", help="Add rows to a store whose rows have another precision.")]
Actors = Annotated[
    str | None,
    typer.Option(
        metavar="N|MIN:MAX",
        help="Models at work at once; MIN:MAX grows and shrinks with the work and the cluster. [default: as many as "
        "the GPUs hold; one on the CPU]",
        show_default=False,
    ),
]
ActorsPerGpu = Annotated[int, typer.Option(metavar="N", help="Models that share a GPU, if they are small.")]
BatchSize = Annotated[str, typer.Option(help="Images of one forward pass; auto asks the free memory of the device.")]
Images = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Where relative paths, and the images of a test.json, start from. [default: the folder of the table, or "
        "images beside the test.json]",
    ),
]
IdColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column of a table that is the id. [default: image_id, else the uri]"),
]
IdColumns = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Columns of a table that are the id together, joined by /.", show_default=False),
]
UriColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column of a table with paths or uris. [default: uri; else, without an image, url, path, file_name, …]",
    ),
]
ImageColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Column of a table with the images themselves, or lists of them. [default: image]"
    ),
]
HfConfig = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Configuration of a data set on the Hugging Face hub.", show_default=False),
]
Split = Annotated[str | None, typer.Option(metavar="NAME", help="Its split, such as train.", show_default=False)]
OnBadRow = Annotated[
    str,
    typer.Option(
        metavar="error|row", help="What a row of a table does that names no image: end the run, or be an error row."
    ),
]
OnDuplicate = Annotated[
    str,
    typer.Option(
        metavar="error|first", help="What a doubled id does: end the run, or leave all rows but the first out."
    ),
]
IdPrefix = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Put before every id, to keep two libraries apart.", show_default=False),
]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Take only part I of N, from 1 to N, by the hash of the id: as the library grows, each image stays in its "
        "part.",
        show_default=False,
    ),
]
Limit = Annotated[int | None, typer.Option(metavar="N", help="Take only the first N rows.", show_default=False)]
Decode = Annotated[
    str,
    typer.Option(
        help="exact is the published preprocessing; fast shrinks large JPEGs while decoding (2.5 times quicker)."
    ),
]
PublishedArithmetic = Annotated[
    bool,
    typer.Option(
        "--published-arithmetic",
        help="Round scores as the published code does in bfloat16, take truncated files, and let texts be as long.",
    ),
]
AllowTruncated = Annotated[
    bool, typer.Option("--allow-truncated", help="Score files that end too early, grey below the cut.")
]
ExifRotate = Annotated[
    bool, typer.Option("--exif-rotate", help="Turn pictures by their EXIF tag; the published code does not.")
]
Preprocess = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="published; or photo, as a person sees it: 16 bits scaled, over white, in sRGB, upright.",
    ),
]
MaxBytes = Annotated[int, typer.Option(metavar="N", help="Larger files become error rows.")]
MaxPixels = Annotated[int, typer.Option(metavar="N", help="Larger pictures become error rows.")]
Texts = Annotated[bool, typer.Option("--texts", help="Also answer the text questions of the protocol.")]
Attributes = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,…", help="Only these text questions, by title or column. [default: all]", show_default=False
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(metavar="N", help="Where a text is cut, up to 8192. [default: 512]", show_default=False),
]
Sequences = Annotated[
    str, typer.Option(metavar="N", help="Texts generated at the same time; auto asks the free memory of the device.")
]
Questions = Annotated[
    bool,
    typer.Option(
        "--questions",
        help="List the questions of every protocol and leave.",
        is_eager=True,
        callback=lambda asked: _list_questions() if asked else None,
    ),
]
DecoderTimeout = Annotated[
    float, typer.Option(metavar="SECONDS", help="Pictures that take longer to decode become error rows.")
]
DecoderMemory = Annotated[
    int, typer.Option(metavar="BYTES", help="Pictures that take more memory to decode become error rows.")
]
Root = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Images outside this folder or prefix become error rows.", show_default=False),
]
AllowPrivateHosts = Annotated[
    bool,
    typer.Option("--allow-private-hosts", help="Fetch http(s) images from loopback and private addresses too."),
]
StoresNamed = Annotated[
    list[str],
    typer.Argument(
        metavar="OUT…",
        help="The --out of runs; several, or a pattern such as 'runs/*', are read as one.",
        show_default=False,
    ),
]
ReadMixed = Annotated[
    bool, typer.Option("--allow-mixed", help="Read stores together whose checkpoint, protocol or preprocessing differ.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
