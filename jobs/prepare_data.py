"""Makes, checks and shows data sets of WebDataset shards. Each verb has options, which VERB --help shows.

Of your own pictures:
    python jobs/prepare_data.py look photos
    python jobs/prepare_data.py folder photos --out data/photos --size 512 --validation-share 0.01
    python jobs/prepare_data.py table pairs.csv --out data/pairs
    python jobs/prepare_data.py huggingface owner/name --out data/name --caption-column text
    python jobs/prepare_data.py pairs facades --out data/facades
    python jobs/prepare_data.py domains horse2zebra --out data/horse2zebra

Of sets that come with a package or the system, or are drawn:
    python jobs/prepare_data.py icons --out data/icons
    python jobs/prepare_data.py emoji --out data/emoji
    python jobs/prepare_data.py fashion_mnist --out data/fashion
    python jobs/prepare_data.py shapes --out data/shapes
    python jobs/prepare_data.py digits --out data/digits

Of shards that are there:
    python jobs/prepare_data.py look data/icons
    python jobs/prepare_data.py verify data/icons

A conversion that was cut off goes on with the same command.
"""

from __future__ import annotations

if __name__ == "__main__":  # before imports that take a second
    from cluster.quiet import ends_quietly

    ends_quietly()

import inspect
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from cluster.parallel import parallel_map
from cluster.signals import interruptible
from genlib import program
from genlib.config import DataConfig, nearest
from genlib.data.builtin import emoji as emoji_font
from genlib.data.builtin import fashion_mnist as fashion_files
from genlib.data.builtin import icons as icon_fonts
from genlib.data.builtin import shapes as shape_source
from genlib.data.builtin.catalog import WrittenSet, write_digits, write_emoji, write_fashion_mnist, write_icons, write_shapes
from genlib.data.importers.convert import ConversionInput
from genlib.data.importers.folder import FolderLabels, FolderSplits, open_folder
from genlib.data.importers.folder_files import FolderMasks
from genlib.data.importers.huggingface import HuggingfaceDataset, open_huggingface
from genlib.data.importers.image_files import AUTO
from genlib.data.importers.pairs import open_domain, open_pairs
from genlib.data.importers.table import open_table
from genlib.data.importers.zip_archive import open_zip
from genlib.data.shards.discovery import all_shards
from genlib.data.shards.shard_set import ShardSet
from genlib.json_text import json_text
from jobs.option_errors import one_sentence
from jobs.options import option
from jobs.prepare.check import verify as checked
from jobs.prepare.convert import Output, convert
from jobs.prepare.layout import layout
from jobs.prepare.show import bucket_counts, draw_sheet
from jobs.prepare.show import table as facts

To = Annotated[Output, tyro.conf.arg(name="")]


def folder(
    where: tyro.conf.Positional[Path],
    output: To,
    labels: FolderLabels = "auto",
    splits: FolderSplits = "auto",
    caption_ending: str = "",
    caption_column: str = "",
    repeats: bool = False,
    masks: FolderMasks = "auto",
) -> None:
    """Images of a folder: with captions NAME.txt or NAME.caption beside them or in metadata.jsonl, or in class folders, or neither.

    NAME.mask.png beside NAME.jpg is its mask, and so are NAME_mask.png, NAME-masklabel.png and masks/NAME.png of most images.

    Args:
        where: The folder; all folders in it are searched. Or a zip of images, as StyleGAN has them, with labels in its dataset.json.
        output: What to write.
        labels: Whether the folder an image lies in is its label; auto: if no image lies outside of one and none has a caption.
        splits: Whether folders at the top called like splits (Train, val, test) are such; auto: if there are no others.
        caption_ending: Ending of the files with captions, such as .caption; by default .txt, else other usual ones.
        caption_column: Column of metadata.csv, .jsonl or .parquet, or field of NAME.json, with the captions; by default text, caption, ...
        repeats: Take the images of a folder 10_name ten times, with `name` as caption where they have none, as sd-scripts does.
        masks: Whether images that are called like masks of others are such; none: they are images.
    """
    if where.suffix.lower() == ".zip" and where.is_file():
        print(convert("folder", zip_of_images(where, labels, (splits, caption_ending, caption_column, repeats, masks)), output))
        return
    print(convert("folder", open_folder(where, labels, splits, caption_ending, caption_column, repeats, masks), output))


def zip_of_images(where: Path, labels: FolderLabels, others: tuple) -> ConversionInput:
    """A zip as input. ValueError for options that only a folder has."""
    if others != ("auto", "", "", False, "auto"):
        raise ValueError(f"{where} is a zip, of which images and --labels are read; for other options unpack it and give the folder")
    return open_zip(where, labels)


def table(
    where: tyro.conf.Positional[Path],
    output: To,
    image_column: str = AUTO,
    caption_column: str = AUTO,
    label_column: str = AUTO,
    mask_column: str = AUTO,
) -> None:
    """Images whose paths a table lists: .csv, .tsv, .json, .jsonl or .parquet. Paths are relative to the table.

    Columns of a table without header are 1, 2, and so on.

    Args:
        where: The table.
        output: What to write.
        image_column: Name of the column with the paths; auto: one that is called path, file_name, image, ..., or holds such.
        caption_column: Name of the column with the captions: texts, or lists of them, of which training draws one at each visit; auto: one that
            is called text, caption, prompt, title, ...; none: no captions.
        label_column: Name of the column with the labels: numbers from 0, or names of classes; -1 and NaN are missing; auto: one that is called
            label, class, category, ...; none: no labels.
        mask_column: Name of the column with the paths of masks; auto: one that is called mask, segmentation, ... and holds such; none: no masks.
    """
    print(convert("table", open_table(where, image_column, caption_column, label_column, mask_column), output))


def pairs(where: tyro.conf.Positional[Path], output: To) -> None:
    """Pictures in pairs, for pix2pix: A and B side by side in one file, or in folders A and B under equal names. B is to be made of A.

    Folders called like splits (train, val, test), beside A and B or in them, are such.

    Args:
        where: The folder; all folders in it are searched.
        output: What to write.
    """
    print(convert("pairs", open_pairs(where), output))


def domains(where: tyro.conf.Positional[Path], output: To) -> None:
    """Two sets of pictures without pairs, for cyclegan and unit: folders trainA and trainB, testA and testB, or A and B.

    They become two sets of shards, OUT/A and OUT/B: train with --data.train OUT/A --data.other OUT/B.

    Args:
        where: The folder; all folders in it are searched.
        output: What to write.
    """
    sources = {side: open_domain(where, side) for side in ("A", "B")}
    for side, source in sources.items():
        print(f"{side}: {convert('domains', source, replace(output, out=output.out / side))}")


def huggingface(
    where: tyro.conf.Positional[str],
    output: To,
    split: str = "train",
    validation_split: str = "",
    image_column: str = "",
    caption_column: str = "",
    label_column: str = "",
    mask_column: str = AUTO,
    config: str = "",
    revision: str = "",
    streaming: bool = False,
) -> None:
    """A Hugging Face data set: a folder of `save_to_disk`, Parquet files, or a name on the hub.

    Args:
        where: The folder, the file, or the name.
        output: What to write.
        split: Its split for training; one called validation or test becomes validation-*.tar.
        validation_split: Its split for validation, if both are wanted.
        image_column: Column with the images; by default the only one of that kind.
        caption_column: Column with the captions: texts, or lists of them, of which training draws one at each visit.
        label_column: Column with the labels; by default the only one of classes.
        mask_column: Column with the masks; auto: one of images that is called mask, annotation, label, ...; none: no masks.
        config: Configuration of a data set on the hub that has several.
        revision: Its commit, tag or branch.
        streaming: Read its files as they come instead of fetching all of them first; each file is one part.
    """
    place = HuggingfaceDataset(path=where, config=config, revision=revision, streaming=streaming)
    columns = (image_column, caption_column, label_column, mask_column)
    print(convert("huggingface", open_huggingface(place, split, validation_split, *columns), output))


def icons(out: Path, size: int = icon_fonts.DEFAULT_SIZE, families: tuple[str, ...] = (), held_out: tuple[str, ...] = ()) -> None:
    """Icons with their names as captions, from the fonts in the package qtawesome or from your own.

    Args:
        out: Folder for the shards, train-*.tar and validation-*.tar, and for contact_sheet.png.
        size: Pixels a side.
        families: Font families for training, of codicon, elusiveicons, fontawesome5-brands, fontawesome5-regular, fontawesome5-solid,
            fontawesome6-brands, fontawesome6-regular, fontawesome6-solid, materialdesignicons5, materialdesignicons6, phosphor and remixicon, or
            'font.ttf:charmap.json'; by default Material Design 6, Phosphor and Remix.
        held_out: Families for validation; by default Font Awesome 6 solid, and none where `families` is given.
    """
    _check_size(size)
    default = () if families else icon_fonts.VALIDATION
    _show(write_icons(out, size, families or icon_fonts.TRAIN, held_out or default), out)


def emoji(out: Path, size: int = emoji_font.DEFAULT_SIZE, font: str = "") -> None:
    """Emoji in colour with their Unicode names as captions, from a font with bitmaps.

    Args:
        out: Folder for the shards, train-*.tar and validation-*.tar, and for contact_sheet.png.
        size: Pixels a side.
        font: NotoColorEmoji.ttf; by default what GENLIB_EMOJI_FONT names, else the system's.
    """
    _check_size(size)
    _show(write_emoji(out, size, font), out)


def fashion_mnist(out: Path, size: int = fashion_files.DEFAULT_SIZE, files: str = "") -> None:
    """Fashion-MNIST: 70,000 grey pictures of clothes in ten classes, from its IDX files.

    Args:
        out: Folder for the shards, train-*.tar and validation-*.tar, and for contact_sheet.png.
        size: Pixels a side; other sizes than 28 are interpolated.
        files: Folder of the four files; by default what GENLIB_FASHION_MNIST names, else Debian's.
    """
    _check_size(size)
    _show(write_fashion_mnist(out, size, files), out)


def shapes(
    out: Path,
    size: int = shape_source.DEFAULT_SIZE,
    train: int = shape_source.NUM_TRAIN,
    validation: int = shape_source.NUM_VALIDATION,
    seed: int = 0,
) -> None:
    """Single coloured shapes with captions, masks, kinds and all factors.

    Args:
        out: Folder for the shards, train-*.tar and validation-*.tar, and for contact_sheet.png.
        size: Pixels a side.
        train: Training samples.
        validation: Held-out samples.
        seed: Of all factors.
    """
    _check_size(size)
    if min(train, validation) < 1:
        raise ValueError(f"--train {train} --validation {validation}: both must be at least 1")
    _show(write_shapes(out, size, train, validation, seed), out)


def digits(out: Path, size: int = 8) -> None:
    """Handwritten digits of scikit-learn with their labels.

    Args:
        out: Folder for the shards, train-*.tar and validation-*.tar, and for contact_sheet.png.
        size: Pixels a side; other sizes than 8 are interpolated.
    """
    _check_size(size)
    _show(write_digits(out, size), out)


def verify(shards: tyro.conf.Positional[tuple[str, ...]], max_bad: float = 0.0, decode: bool = False) -> None:
    """Reads every header and caption anew and prints counts as JSON; exits with 1 where too many samples are bad. Members seen are used or counted.

    Args:
        shards: Folders, tars or patterns.
        max_bad: Largest share of bad samples that is fine, 0 to 1.
        decode: Decode all pixels too, which takes far longer.
    """
    found = checked(_places(shards), decode)
    members = {"seen": found.members.seen, "used": found.members.used, "unused": dict(sorted(found.members.unused.items()))}
    print(json_text({"shards": found.shards, "samples": found.samples, "bad": dict(sorted(found.bad.items())), "members": members}))
    if found.members.endings:
        print(
            f"endings that are not read: {', '.join(f'{ending} {count:,}' for ending, count in found.members.endings.most_common())}", file=sys.stderr
        )
    if found.joined:
        print(found.joined, file=sys.stderr)
    for reason, name in sorted(found.first.items()):
        print(f"{reason}: first is {name}", file=sys.stderr)
    if found.share > max_bad:
        sys.exit(1)


def look(
    shards: tyro.conf.Positional[tuple[str, ...]],
    out: Path = Path("contact_sheet.png"),
    count: int = 96,
    image_size: int = 0,
    bucket_step: int = 0,
    bucket_max_aspect: float = 2.0,
) -> None:
    """Draws a contact sheet of samples spread evenly over the shards, and prints what they hold; of anything else the layout and the command.

    Args:
        shards: Folders, tars or patterns; or one folder of images, table or zip, which is looked at and nothing more.
        out: The picture.
        count: Samples to show.
        image_size: Pixels a side of the square that each aspect-ratio bucket is as large as.
        bucket_step: What the sides of buckets are multiples of; then it prints how many samples each would have.
        bucket_max_aspect: Largest ratio of a bucket's sides.
    """
    if len(shards) == 1 and (lines := layout(Path(shards[0]).expanduser())) is not None:
        print(lines)
        return
    config = DataConfig(image_size=image_size, bucket_step=bucket_step, bucket_max_aspect=bucket_max_aspect)
    found = ShardSet.open(_places(shards), each=partial(parallel_map, label="indexing"))
    draw_sheet(found, out, count)
    print(facts(found))
    if bucket_step:
        print(bucket_counts(found, config))
    print(f"{'picture':<16} {out}")


def _places(shards: Sequence[str]) -> list:
    return list(dict.fromkeys(place for where in shards for place in all_shards(where)))


def _check_size(size: int) -> None:
    if not 4 <= size <= 1024:
        raise ValueError(f"--size {size} is out of range; choose 4 to 1024 pixels")


def _show(written: WrittenSet, out: Path) -> None:
    """The one line of counts, and the picture beside the shards."""
    draw_sheet(ShardSet.open(all_shards(str(out))), out / "contact_sheet.png", 192)
    print(f"{written}; picture: {out / 'contact_sheet.png'}")


VERBS = {
    "folder": folder, "table": table, "pairs": pairs, "domains": domains, "huggingface": huggingface, "icons": icons, "emoji": emoji,
    "fashion_mnist": fashion_mnist, "shapes": shapes, "digits": digits, "verify": verify, "look": look,
}  # fmt: skip


def options_of(verb: str) -> list[str]:
    """The options that a verb takes."""
    parameters = inspect.signature(VERBS[verb]).parameters if verb in VERBS else {}
    names = [name for name, one in parameters.items() if "Positional" not in str(one.annotation)]
    return [option(one) for name in names for one in ([field.name for field in fields(Output)] if name == "output" else [name])]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one verb. A value that is wrong, or a disk that is full, ends it with one sentence and exit code 2 or 1."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    verb = words[0].replace("-", "_")
    try:
        if not words[0].startswith("-") and verb not in VERBS:
            raise ValueError(f"there is no verb {words[0]!r}.{nearest(verb, list(VERBS))} The verbs are {', '.join(VERBS)}")
        with one_sentence(options_of(verb), words):
            tyro.extras.subcommand_cli_from_dict(VERBS, prog=program.command("data"), description=program.as_called(__doc__ or ""), args=words)
    except ValueError as error:
        print(f"error: {program.as_called(str(error))}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"error: {f'{error.filename}: {error.strerror}' if error.filename and error.strerror else error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(interruptible(lambda: main() or 0))
