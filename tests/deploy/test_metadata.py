"""Metadata: what is written is read back, the model stays what it was, and damage is an error."""

import dataclasses
import io
import struct
import zipfile

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_kd import deploy
from keras_kd.deploy.package import metadata as module
from keras_kd.deploy.package import wrapped_model
from keras_kd.deploy.package.metadata import (
    Metadata,
    TensorMetadata,
    image_classifier,
    metadata_buffer,
    read_metadata,
    without_metadata,
    write_metadata,
)

LABELS = ("one", "two, or 2", "drei: größer", " four ")


@pytest.fixture
def content(converted):
    return converted("int8").content


@pytest.fixture
def notes(content):
    return image_classifier(
        content,
        name="Blobs",
        labels=LABELS,
        mean=10,
        std=0.1,
        description="Where the blob is.",
        version="v3",
        author="Somebody Ö",
        licence="Apache-2.0",
    )


def damaged(content, find, replace):
    assert content.count(find) >= 1
    return content.replace(find, replace)


def test_what_was_written_is_read(content, notes):
    assert read_metadata(write_metadata(content, notes)) == notes
    (image,), (scores,) = notes.inputs, notes.outputs
    assert image.image
    assert image.mean == (10.0,)
    assert image.std == (float(np.float32(0.1)),)
    assert image.minimum == (float(np.float32(-10 / image.std[0])),)
    assert image.maximum == (float(np.float32(245 / image.std[0])),)
    assert (image.name, scores.name) == ("image", "output_0")
    assert scores.labels == LABELS


@pytest.mark.parametrize("quantization", ["float32", "dynamic_range", "int8"])
def test_the_model_is_what_it_was(converted, images, quantization):
    artifact = converted(quantization)
    content = write_metadata(artifact.content, Metadata("m", inputs=(TensorMetadata("x"),)))
    place = content.find(artifact.content)
    assert place > 0
    assert place % wrapped_model.ALIGNMENT == 0
    before, after = deploy.model_info(artifact.content), deploy.model_info(content)
    for field in dataclasses.fields(before):
        if field.name not in ("size_bytes", "buffer_bytes", "metadata", "content"):
            assert getattr(after, field.name) == getattr(before, field.name), field.name
    assert after.buffer_bytes[:-1] == before.buffer_bytes
    assert [name for name, _ in after.metadata] == [
        *(name for name, _ in before.metadata),
        "TFLITE_METADATA",
    ]
    for tensor in before.tensors:
        np.testing.assert_array_equal(after.values(tensor), before.values(tensor))
    for runtime in ("litert", "litert_reference", "tflm"):
        if runtime == "tflm" and quantization == "dynamic_range":
            continue
        expected = deploy.predict(artifact.content, images[:3], runtime=runtime)
        np.testing.assert_array_equal(
            deploy.predict(content, images[:3], runtime=runtime), expected
        )


def test_the_same_bytes_each_time_and_writing_again_replaces(content, notes):
    written = write_metadata(content, notes)
    assert write_metadata(content, notes) == written
    other = dataclasses.replace(notes, name="Another", outputs=())
    again = write_metadata(written, other)
    assert again == write_metadata(content, other)
    assert read_metadata(again).outputs[0].labels == ()
    assert write_metadata(again, notes) == written
    assert without_metadata(written) == content
    assert without_metadata(content) == content


@pytest.mark.parametrize("extra", range(17))
def test_a_file_of_any_length_comes_back_whole(content, notes, extra):
    longer = content + b"\0" * extra
    written = write_metadata(longer, notes)
    assert without_metadata(written) == longer
    assert read_metadata(written) == notes


def test_labels_are_a_stored_file_at_the_end(content, notes):
    written = write_metadata(content, notes)
    with zipfile.ZipFile(io.BytesIO(written)) as archive:
        (entry,) = archive.infolist()
        assert entry.filename == "labels.txt"
        assert entry.compress_type == zipfile.ZIP_STORED  # MediaPipe reads no other.
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)
        assert archive.read(entry).decode() == "".join(f"{label}\n" for label in LABELS)
        assert written[entry.header_offset :].startswith(b"PK\3\4")
    assert metadata_buffer(written)[4:8] == b"M001"


def test_without_labels_there_is_no_archive(content):
    written = write_metadata(content, Metadata("plain"))
    assert not zipfile.is_zipfile(io.BytesIO(written))
    found = read_metadata(written)
    assert found.name == "plain"
    assert [entry.name for entry in found.inputs + found.outputs] == ["image", "output_0"]


def test_several_inputs_and_outputs_have_files_of_their_own(by_hand):
    graph = by_hand.chain(["ADD"], [by_hand.tensor("a"), by_hand.tensor("b")])
    model = schema.ModelT.InitFromPackedBuf(graph)
    model.subgraphs[0].inputs, model.subgraphs[0].outputs = [0, 1], [1, 0]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    entries = [TensorMetadata(labels=[f"{n}{i}" for i in range(4)]) for n in "pqrs"]
    noted = Metadata("m", inputs=entries[:2], outputs=entries[2:])
    written = write_metadata(bytes(builder.Output()), noted)
    with zipfile.ZipFile(io.BytesIO(written)) as archive:
        assert archive.namelist() == [
            "input_0_labels.txt",
            "input_1_labels.txt",
            "labels.txt",
            "output_1_labels.txt",
        ]
    found = read_metadata(written)
    assert [entry.name for entry in found.inputs + found.outputs] == ["a", "b", "b", "a"]
    assert [entry.labels[0] for entry in found.inputs + found.outputs] == ["p0", "q0", "r0", "s0"]


def test_by_the_slots_of_the_schema(content, notes):
    """Read by other code than ours: generic flatbuffers, and slots counted in the schema's text."""

    def at(table, slot):
        return table.Offset(4 + 2 * slot)

    def child(table, slot, index=None):
        field = at(table, slot)
        place = field + table.Pos if index is None else table.Vector(field) + 4 * index
        return flatbuffers.table.Table(table.Bytes, table.Indirect(place))

    def string(table, slot):
        return table.String(at(table, slot) + table.Pos).decode()

    packed = metadata_buffer(write_metadata(content, notes))
    model = flatbuffers.table.Table(packed, struct.unpack_from("<I", packed)[0])
    # name, description, version, subgraph_metadata, author, license, files, min_parser_version
    assert [string(model, slot) for slot in (0, 1, 2, 4, 5, 7)] == [
        "Blobs",
        "Where the blob is.",
        "v3",
        "Somebody Ö",
        "Apache-2.0",
        "1.0.0",
    ]
    graph = child(model, 3, 0)
    image = child(graph, 2, 0)
    content_table = child(image, 3)
    number = flatbuffers.number_types.Uint8Flags
    assert content_table.Get(number, at(content_table, 0) + content_table.Pos) == 2  # Image
    properties = child(content_table, 1)
    assert properties.Get(number, at(properties, 0) + properties.Pos) == 2  # Grayscale
    size = child(properties, 1)
    sides = [size.Get(flatbuffers.number_types.Uint32Flags, at(size, s) + size.Pos) for s in (0, 1)]
    assert sides == [8, 8]
    unit = child(image, 4, 0)
    assert unit.Get(number, at(unit, 0) + unit.Pos) == 1  # NormalizationOptions
    options = child(unit, 1)
    for slot, value in ((0, 10.0), (1, 0.1)):
        start = options.Vector(at(options, slot))
        assert struct.unpack_from("<f", packed, start)[0] == np.float32(value)
    file = child(child(graph, 3, 0), 6, 0)
    assert string(file, 0) == "labels.txt"
    assert file.Get(number, at(file, 2) + file.Pos) == 2  # TENSOR_AXIS_LABELS


def test_metadata_of_another_tool_are_read_and_replaced(content, notes):
    packed = metadata_buffer(write_metadata(content, notes))
    model = schema.ModelT.InitFromPackedBuf(content)
    foreign = schema.MetadataT()
    foreign.name, foreign.buffer = "TFLITE_METADATA", len(model.buffers)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(packed, np.uint8)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), foreign]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    whole = io.BytesIO(bytes(builder.Output()))
    whole.seek(0, io.SEEK_END)
    with zipfile.ZipFile(whole, "a") as archive:
        archive.writestr("labels.txt", "\n".join(LABELS))
    assert read_metadata(whole.getvalue()) == notes
    replaced = write_metadata(whole.getvalue(), dataclasses.replace(notes, name="Ours"))
    assert read_metadata(replaced).name == "Ours"
    assert replaced.count(b"PK\5\6") == 1
    names = [name for name, _ in deploy.model_info(replaced).metadata]
    assert names.count("TFLITE_METADATA") == 1


def test_a_model_without_metadata_says_so(content):
    with pytest.raises(
        ValueError, match=r"Expected a model with the metadata buffer.*write_metada"
    ):
        read_metadata(content)
    assert metadata_buffer(content) is None


def test_another_buffer_under_the_name(content, notes):
    with pytest.raises(ValueError, match="Expected metadata with 'M001' at byte 4"):
        read_metadata(damaged(write_metadata(content, notes), b"M001", b"M002"))


def test_a_missing_label_file_is_an_error(content, notes):
    written = write_metadata(content, notes)
    cut = written[: written.index(b"PK\3\4")]
    with pytest.raises(ValueError, match=r"Expected the file 'labels.txt' at the model's end"):
        read_metadata(cut)
    with pytest.raises(ValueError, match=r"Expected whole metadata.*KeyError"):
        read_metadata(
            damaged(written, b"labels.txt", b"babels.txt").replace(b"babels.txt", b"labels.txt", 1)
        )


def test_label_files_that_claim_to_be_large_are_not_read(content, notes):
    written = write_metadata(content, notes)
    central = written.rindex(b"PK\1\2")
    for claim in (module.LARGEST_FILE_BYTES + 1, 0xFFFFFFF0):
        hostile = bytearray(written)
        hostile[central + 24 : central + 28] = struct.pack("<I", claim)
        with pytest.raises(ValueError, match=r"Expected 'labels.txt' of at most"):
            read_metadata(bytes(hostile))


def test_mutated_metadata_end_in_metadata_or_an_error(content, notes):
    """No byte of the metadata, set to anything, ends in another exception or takes long."""
    written = write_metadata(content, notes)
    packed = metadata_buffer(written)
    start = written.index(packed)
    rng = np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        hostile = bytearray(written)
        for place in rng.integers(0, len(packed), rng.integers(1, 4)):
            hostile[start + place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
        try:
            read_metadata(bytes(hostile))
            outcomes["read"] += 1
        except ValueError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20


@pytest.mark.parametrize("cut", [1, 8, 24, 60, 100])
def test_a_damaged_archive_is_an_error_or_no_archive(content, notes, cut):
    written = write_metadata(content, notes)
    with pytest.raises(ValueError, match="Expected"):
        read_metadata(written[:-cut])


def test_constants_outside_the_flatbuffer_are_refused(content, notes):
    model = schema.ModelT.InitFromPackedBuf(content)
    model.buffers[-1].data, model.buffers[-1].offset, model.buffers[-1].size = None, 64, 8
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    with pytest.raises(ValueError, match=r"Expected a model of at most 2 GB.*1 buffers"):
        write_metadata(bytes(builder.Output()), notes)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"outputs": (TensorMetadata(labels=LABELS[:3]),)}, "Expected 4 labels .* Received: 3"),
        ({"outputs": (TensorMetadata(labels=("a\nb", "c", "d", "e")),)}, "text of one line"),
        ({"outputs": (TensorMetadata(labels=("", "c", "d", "e")),)}, "text of one line"),
        ({"outputs": (TensorMetadata(labels=(1, 2, 3, 4)),)}, "text of one line"),
        ({"outputs": (TensorMetadata(image=True),)}, r"to be an image .* Received: \[1, 4\]"),
        ({"inputs": (TensorMetadata(), TensorMetadata())}, "Expected 1 entries in inputs: image"),
        ({"inputs": (TensorMetadata(mean=(1, 2), std=(1, 1)),)}, "one number or 1 in mean"),
        ({"inputs": (TensorMetadata(minimum=(1, 2), maximum=(1, 1)),)}, "or 1 in minimum"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(content, change, match):
    with pytest.raises(ValueError, match=match):
        write_metadata(content, Metadata("m", **change))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"mean": (1,)}, "as many std as mean"),
        ({"mean": (1,), "std": (0,)}, "std above 0"),
        ({"mean": (float("nan"),), "std": (1,)}, "all finite"),
        ({"minimum": (1,)}, "as many numbers in minimum"),
    ],
)
def test_numbers_that_make_no_sense(fields, match):
    with pytest.raises(ValueError, match=match):
        TensorMetadata(**fields)


def test_no_image_classifier(by_hand):
    model = schema.ModelT.InitFromPackedBuf(by_hand.chain(["RELU"]))
    model.subgraphs[0].inputs = [0, 1]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    with pytest.raises(ValueError, match=r"of one input and one output. Received: 2 and 1"):
        image_classifier(bytes(builder.Output()), name="m", labels=["a"])


def test_no_flatbuffer(notes):
    for call in (lambda: write_metadata(b"none", notes), lambda: read_metadata(b"none")):
        with pytest.raises(ValueError, match="Expected a TFLite flatbuffer"):
            call()
