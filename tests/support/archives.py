"""Look-alike downloads of the five benchmarks, and the registry pointed at a loopback server."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet

from search_spaces.benchmarks import BENCHMARKS
from tests.support.file_server import FileServer
from trainables.data.acquire.sources import BenchmarkSources, DataMirror, RemoteFile, Route, sources_of
from trainables.data.formats.sample import write_sample

NUM_DUPLICATES = 7


def zipped(folder: Path, inside: str) -> bytes:
    """A zip of a folder's content below the name `inside`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not file.name.startswith("."):
                archive.write(file, f"{inside}/{file.relative_to(folder)}" if inside else str(file.relative_to(folder)))
    return stream.getvalue()


def tarred(entries: dict[str, bytes]) -> bytes:
    """A tar.gz with these files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def files_below(folder: Path, prefix: str) -> dict[str, bytes]:
    """Content of the images below a folder, by name."""
    return {
        f"{prefix}/{file.relative_to(folder)}": file.read_bytes()
        for file in sorted(folder.rglob("*.jpg"))
        if file.is_file()
    }


def downloads(benchmark: str, scratch: Path) -> dict[str, bytes]:
    """The files of every route of a benchmark, by their names in the registry, with small drawn images."""
    images_per_class = 1 if benchmark == "DomainNet" else 2
    write_sample(scratch, images_per_class=images_per_class, image_side=16, benchmarks=[benchmark])
    folder = scratch / BENCHMARKS[benchmark].folder
    if benchmark == "PACS":
        archives = {"PACS.zip": zipped(folder, "kfold"), "pacs.zip": zipped(folder, "pacs/images")}
        return archives | {"pacs.parquet": hub_parquet(folder)}
    if benchmark == "VLCS":
        return {"VLCS.tar.gz": tarred(files_below(folder, "VLCS"))}
    if benchmark == "OfficeHome":
        archive = zipped(folder, "OfficeHomeDataset_10072016")
        return {"office_home.zip": archive, "office_home.parquet": hub_parquet(folder)}
    if benchmark == "TerraIncognita":
        return camera_trap_archives(folder)
    return domain_net_archives(folder)


def hub_parquet(folder: Path) -> bytes:
    """The benchmark as a Hugging Face data set: image struct, domain in lower case, label numbers with names."""
    rows = [(file.relative_to(folder).parts, file.read_bytes()) for file in sorted(folder.rglob("*.jpg"))]
    names = sorted({parts[1] for parts, _ in rows})
    table = pa.table(
        {
            "image": [{"bytes": data, "path": None} for _, data in rows],
            "domain": [parts[0].lower() for parts, _ in rows],
            "label": [names.index(parts[1]) for parts, _ in rows],
        }
    )
    info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    stream = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), stream)
    return stream.getvalue()


def camera_trap_archives(folder: Path) -> dict[str, bytes]:
    """Images in one folder, and two annotation files that overlap; one image has a cat and a dog."""
    pictures: dict[str, bytes] = {}
    images, annotations = [], []
    categories = {name: number for number, name in enumerate([*BENCHMARKS["TerraIncognita"].class_names, "deer"])}
    for file in sorted(folder.rglob("*.jpg")):
        location, category, name = file.relative_to(folder).parts
        image_id = f"{location}-{category}-{name}".removesuffix(".jpg")
        pictures[f"eccv_18_all_images_sm/{image_id}.jpg"] = file.read_bytes()
        images.append({"id": image_id, "file_name": f"{image_id}.jpg", "location": location.removeprefix("location_")})
        annotations += [{"image_id": image_id, "category_id": categories[category]}] * 2
    annotations.append({"image_id": "location_38-cat-000", "category_id": categories["dog"]})
    annotations.append({"image_id": "location_38-cat-001", "category_id": categories["deer"]})
    images.append({"id": "elsewhere", "file_name": "elsewhere.jpg", "location": 7})
    annotations.append({"image_id": "elsewhere", "category_id": categories["cat"]})
    named = [{"id": number, "name": name} for name, number in categories.items()]
    parts = {}
    for number, (some, others) in enumerate(((images[:50], annotations), (images[40:], annotations[-5:]))):
        content = {"images": some, "annotations": others, "categories": named}
        parts[f"eccv_18_annotation_files/part_{number}.json"] = json.dumps(content).encode()
    return {"eccv_18_all_images_sm.tar.gz": tarred(pictures), "eccv_18_annotations.tar.gz": tarred(parts)}


def domain_net_archives(folder: Path) -> dict[str, bytes]:
    """One zip per domain, with images that the list of duplicates names."""
    listed = []
    for number in range(NUM_DUPLICATES):
        extra = folder / "clipart" / "zebra" / f"duplicate_{number}.jpg"
        extra.write_bytes((folder / "clipart" / "zebra" / "000.jpg").read_bytes())
        listed.append(f"clipart/zebra/{extra.name}")
    archives = {f"{domain.name}.zip": zipped(domain, domain.name) for domain in folder.iterdir() if domain.is_dir()}
    return archives | {"domain_net_duplicates.txt": ("\n".join(listed) + "\n").encode()}


def local_sources(benchmark: str, server: FileServer, files: dict[str, bytes]) -> BenchmarkSources:
    """The registry's own routes and steps, with every mirror on the server and the files' sizes and checksums."""
    sources = sources_of(benchmark)
    routes = []
    for route in sources.routes:
        known = [_local_file(file, server, files) for file in route.files if file.name in files]
        steps = [replace(step, count=NUM_DUPLICATES if step.count else None) for step in route.steps]
        if len(known) == len(route.files):
            routes.append(Route(name=route.name, files=tuple(known), steps=tuple(steps)))
    return replace(sources, routes=tuple(routes), unpacked_bytes=50_000_000)


def _local_file(file: RemoteFile, server: FileServer, files: dict[str, bytes]) -> RemoteFile:
    content = files[file.name]
    mirrors = []
    for mirror in file.mirrors:
        if mirror.transport == "hugging_face":
            owner, name, path = mirror.address.split("/", 2)
            server.add(f"/datasets/{owner}/{name}/resolve/{mirror.revision or 'main'}/{path}", content)
            mirrors.append(replace(mirror, endpoint=server.url))
        elif mirror.transport == "bucket":
            server.add(f"/bucket/{file.name}", content)
            mirrors.append(DataMirror(transport="bucket", address=f"s3://bucket/{file.name}", endpoint=server.address))
        else:
            path = f"/{mirror.transport}/{file.name}"
            server.add(path, content)
            mirrors.append(replace(mirror, address=f"{server.url}{path}"))
    sha256 = hashlib.sha256(content).hexdigest()
    return replace(file, size=len(content), sha256=sha256, md5=None, mirrors=tuple(mirrors))
