"""The registry over HTTP: conditions, aliases, filters, lineage, the audit log and archives."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from unicodedata import normalize

import httpx2
import pytest
from starlette.testclient import TestClient

from tests.support.library import memory_library
from tests.support.memory.worker import MODEL
from tests.support.samples import artifact, card
from vlibrary.adapters.artifacts.s3 import S3Artifacts, connect
from vlibrary.api.app import create_app
from vlibrary.api.http.deps import Limits
from vlibrary.formats.archive import Item, open_archive, pack
from vlibrary.formats.artifact import sha256_of
from vlibrary.library.library import Library

HUE = "Which hue has the shape?"
COUNT = "How many dogs are there?"
V1 = {"If-Match": '"v1"'}
CREATE = {"If-None-Match": "*"}
SECOND = {"shots": 4, "split": "test", "code": "16", "ver": "1.10", "sha": "1e5", "set": "NaN", "ok": "true"}


@pytest.fixture
def library() -> Library:
    return memory_library()


@pytest.fixture
def api(library: Library) -> Iterator[TestClient]:
    limits = Limits(artifact_bytes=10_000, card_bytes=20_000, request_bytes=200_000)
    with TestClient(create_app(library, limits), raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


def upload(api: TestClient, name: str = "colour", description: str = HUE, seed: int = 0, **more: Any) -> dict[str, Any]:
    files = {"artifact": ("v.safetensors", artifact(MODEL, seed))}
    answer = api.post("/vectors", files=files, data={"card": card(name, description, **more)})
    assert answer.status_code == 201, answer.text
    assert answer.headers["x-catalogue-seq"] == str(answer.json()["seq"])
    assert answer.headers["etag"] == '"v1"'
    body: dict[str, Any] = answer.json()
    assert body.pop("description_text")["tokens"] == len(description.split())
    return body


def assert_problem(answer: httpx2.Response, status: int, slug: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"/problems/{slug}"
    assert answer.json()["cure"]


def listed(api: TestClient, **filters: Any) -> list[str]:
    answer = api.get("/vectors", params=filters)
    assert answer.status_code == 200, answer.text
    return [f"{item['name']}:{item['version']}" for item in answer.json()["items"]]


def test_a_vector_is_found_by_every_kind_of_reference(api: TestClient) -> None:
    record = upload(api)
    api.put("/aliases/colour/production", json={"vector": "colour:1"}, headers=CREATE)
    for reference in (record["id"], "colour", "colour:1", "colour@production"):
        answer = api.get(f"/vectors/{reference}")
        assert answer.json() == record
        assert answer.headers["etag"] == '"v1"'
        assert answer.headers["content-location"] == f"/vectors/{record['id']}"
        assert sha256_of(api.get(f"/vectors/{reference}/content").content) == record["sha256"]
    assert_problem(api.get("/vectors/colour:2"), 404, "vector-not-found")
    assert_problem(api.get("/vectors/colour@staging"), 404, "alias-not-found")


def test_generate_and_chat_accept_references(api: TestClient) -> None:
    record = upload(api)
    api.put("/aliases/colour/production", json={"vector": "colour:1"}, headers=CREATE)
    chosen = [{"id": "colour@production", "strength": 0.5}]
    answer = api.post("/generate", json={"prompt": "a", "steering": chosen}).json()
    assert [one["id"] for one in answer["steering"]["applied"]] == [record["id"]]
    chat = {
        "model": MODEL.model_id,
        "messages": [{"role": "user", "content": "a"}],
        "vlibrary": {"steering": [{"id": "colour:1"}]},
    }
    completion = api.post("/v1/chat/completions", json=chat).json()
    assert [one["id"] for one in completion["vlibrary"]["applied"]] == [record["id"]]


def test_a_vector_is_changed_only_at_the_given_revision(api: TestClient) -> None:
    record = upload(api)
    body = {"description": COUNT, "tags": ["b", "a"], "metadata": {"shots": 16, "share": 0.5, "ok": True, "split": "x"}}
    assert_problem(api.patch("/vectors/colour:1", json=body), 428, "revision-required")
    answer = api.patch("/vectors/colour:1", json=body, headers=V1)
    after = answer.json()
    assert answer.status_code == 200
    assert answer.headers["etag"] == '"v2"'
    assert (after["revision"], after["description"], after["tags"]) == (2, COUNT, ["a", "b"])
    assert after["metadata"] == body["metadata"]
    assert type(after["metadata"]["ok"]) is bool
    assert {**after, **{name: record[name] for name in ("revision", "description", "tags", "metadata")}} == record
    assert_problem(api.patch("/vectors/colour:1", json={"tags": []}, headers=V1), 412, "stale-revision")
    assert api.get("/vectors/colour").json() == after
    hit = api.get("/retrieve", params={"query": COUNT, "min_seq": answer.headers["x-catalogue-seq"]}).json()
    assert hit["matches"][0]["accepted"]


@pytest.mark.parametrize("tag", ["v1", '"1"', '"v0"', 'W/"v1"', '"v1", "v2"', "*", '"v' + "9" * 30 + '"'])
def test_an_invalid_if_match_is_rejected(api: TestClient, tag: str) -> None:
    upload(api)
    assert_problem(api.patch("/vectors/colour:1", json={"tags": []}, headers={"If-Match": tag}), 422, "invalid-input")
    assert_problem(api.delete("/vectors/colour:1", headers={"If-Match": tag}), 422, "invalid-input")


@pytest.mark.parametrize(
    "body",
    [
        {"tags": [""]},
        {"tags": [" a"]},
        {"tags": [1]},
        {"metadata": {"1": 1}},
        {"metadata": {"a": None}},
        {"metadata": {"a": "\0"}},
        {"metadata": {"a": 2**53}},
        {"description": "x" * 2_001},
        {"name": "other"},
    ],
)
def test_an_invalid_patch_changes_nothing(api: TestClient, body: dict[str, Any]) -> None:
    upload(api)
    assert api.patch("/vectors/colour:1", json=body, headers=V1).status_code == 422
    assert api.get("/vectors/colour").json()["revision"] == 1


def test_a_name_or_alias_is_rejected_for_changes(api: TestClient) -> None:
    upload(api)
    for reference in ("colour", "colour@production"):
        assert_problem(api.delete(f"/vectors/{reference}"), 422, "invalid-input")
        assert_problem(api.patch(f"/vectors/{reference}", json={}, headers=V1), 422, "invalid-input")
    assert listed(api) == ["colour:1"]


def test_known_content_returns_304(api: TestClient) -> None:
    record = upload(api)
    etag = f'"sha256:{record["sha256"]}"'
    for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        answer = api.get("/vectors/colour/content", headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    answer = api.get("/vectors/colour/content", headers={"If-None-Match": '"sha256:0"'})
    assert answer.status_code == 200
    digest = base64.b64encode(bytes.fromhex(record["sha256"])).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"


def test_content_redirects_to_a_presigned_url(library: Library, api: TestClient) -> None:
    record = upload(api)
    assert api.get("/vectors/colour/content", params={"redirect": "true"}).status_code == 200
    bucket = connect(region="eu-central-1", endpoint="http://store:9", access_key="key", secret_key="secret")
    linking = replace(library, artifacts=S3Artifacts(bucket, "bucket", prefix="p/"))
    with TestClient(create_app(linking), follow_redirects=False) as linked:
        answer = linked.get("/vectors/colour/content", params={"redirect": "true"})
    assert answer.status_code == 307
    assert answer.headers["cache-control"] == "no-store"
    location = httpx2.URL(answer.headers["location"])
    assert (location.host, location.path) == (
        "store",
        f"/bucket/p/{library.catalogue.vectors.get(record['id']).object_key}",
    )
    assert location.params["X-Amz-Expires"] == "300"
    assert location.params["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert "colour-1.safetensors" in location.params["response-content-disposition"]


def test_delete_restore_and_purge(api: TestClient) -> None:
    upload(api)
    assert_problem(api.delete("/vectors/colour:1", headers={"If-Match": '"v7"'}), 412, "stale-revision")
    assert_problem(api.delete("/vectors/colour:1", params={"purge": "true"}), 409, "not-deleted")
    assert_problem(api.post("/vectors/colour:1/restore"), 409, "not-deleted")
    gone = api.delete("/vectors/colour:1", headers=V1)
    assert (gone.status_code, gone.headers["x-catalogue-seq"]) == (204, "2")
    assert_problem(api.get("/vectors/colour:1"), 404, "vector-not-found")
    assert listed(api) == []
    assert listed(api, state="deleted") == ["colour:1"]
    back = api.post("/vectors/colour:1/restore")
    assert (back.status_code, back.json()["state"], back.headers["etag"]) == (200, "active", '"v3"')
    assert listed(api) == ["colour:1"]
    api.delete("/vectors/colour:1")
    assert api.delete("/vectors/colour:1", params={"purge": "true"}).status_code == 204
    assert listed(api, state="any") == []
    assert upload(api)["version"] == 2


def test_a_permanent_conflict_has_no_retry_after(api: TestClient) -> None:
    upload(api)
    assert "retry-after" not in api.post("/vectors/colour:1/restore").headers


def test_aliases_change_by_compare_and_swap(api: TestClient) -> None:
    first, second = (upload(api, seed=seed) for seed in (1, 2))
    path, to = "/aliases/colour/production", {"vector": first["id"]}
    assert_problem(api.get(path), 404, "alias-not-found")
    assert_problem(api.put(path, json=to), 428, "revision-required")
    assert_problem(api.put(path, json=to, headers=CREATE | V1), 422, "invalid-input")
    assert_problem(api.put(path, json=to, headers={"If-None-Match": '"v1"'}), 422, "invalid-input")
    assert_problem(api.put(path, json=to, headers=V1), 412, "stale-revision")
    made = api.put(path, json=to, headers=CREATE)
    assert made.status_code == 200
    assert made.headers["etag"] == f'"v{made.json()["revision"]}"' == api.get(path).headers["etag"]
    assert_problem(api.put(path, json=to, headers=CREATE), 412, "alias-taken")
    moved = api.put(path, json={"vector": "colour"}, headers={"If-Match": made.headers["etag"]})
    assert moved.json()["id"] == second["id"]
    assert api.get("/aliases").json()["items"] == [moved.json()]
    assert api.get("/aliases", params={"name": "other"}).json()["items"] == []
    assert_problem(api.delete("/vectors/colour:2"), 409, "still-aliased")
    assert_problem(api.delete(path), 428, "revision-required")
    assert_problem(api.delete(path, headers={"If-Match": made.headers["etag"]}), 412, "stale-revision")
    assert api.delete(path, headers={"If-Match": moved.headers["etag"]}).status_code == 204
    assert api.delete("/vectors/colour:2").status_code == 204


def test_exactly_one_concurrent_alias_move_succeeds(api: TestClient) -> None:
    first = upload(api)
    etag = api.put("/aliases/colour/production", json={"vector": first["id"]}, headers=CREATE).headers["etag"]

    def move(_: int) -> int:
        sent = api.put("/aliases/colour/production", json={"vector": "colour:1"}, headers={"If-Match": etag})
        return int(sent.status_code)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(move, range(16))) == [200] + [412] * 15


def test_vectors_are_listed_by_filter(api: TestClient) -> None:
    upload(api, tags=["a", "b"], metadata={"shots": 16, "split": "train", "ok": True})
    root = upload(api, tags=["a"], metadata=SECOND)
    upload(api, "count", derived_from=[root["id"]])
    assert listed(api, tag=["a", "b"]) == ["colour:1"]
    assert listed(api, tag="a") == ["colour:2", "colour:1"]
    assert listed(api, name="count", method="m2iv", model=MODEL.model_id) == ["count:1"]
    assert listed(api, method="other") == []
    assert listed(api, derived_from=root["id"]) == ["count:1"]
    for condition, found in {
        "shots=16": ["colour:1"],
        'shots="16"': [],
        "code=16": ["colour:2"],
        "code=[16]": [],
        "ver=1.10": ["colour:2"],
        "ver=1.1": [],
        "code=NaN": [],
        "sha=1e5": ["colour:2"],
        "sha=100000": [],
        "shots=16.0": ["colour:1"],
        "set=NaN": ["colour:2"],
        'code="16"': ["colour:2"],
        "shots>=4": ["colour:2", "colour:1"],
        "shots<=4": ["colour:2"],
        "split=train": ["colour:1"],
        'split=["train","test"]': ["colour:2", "colour:1"],
        "split>=train": ["colour:1"],
        "ok=true": ["colour:2", "colour:1"],
        "ok=1": [],
    }.items():
        assert listed(api, metadata=condition) == found, condition
    assert listed(api, metadata=["shots>=4", "shots<=8"]) == ["colour:2"]
    assert listed(api, created_from="2100-01-01T00:00:00Z") == []
    times = {"created_from": root["created_at"], "created_before": "2100-01-01T00:00:00+01:00"}
    assert listed(api, **times) == ["count:1", "colour:2"]
    assert listed(api, created_before="2100-01-01T00:00:00 01:00") == ["count:1", "colour:2", "colour:1"]


@pytest.mark.parametrize(
    "filters",
    [{"metadata": text} for text in ("shots", "=1", "a b=1", "ok>=true", "shots>=[1]", "shots=[[1]]", "")]
    + [
        {"created_from": text}
        for text in ("yesterday", "2026-11-22", "2026-11-22T12:00:00", "1e9", "0001-01-01T00:00:00+14:00")
    ]
    + [{"tag": " a"}, {"tag": ""}, {"method": "\0"}, {"derived_from": "colour"}, {"state": "purged"}],
)
def test_an_invalid_filter_is_rejected(api: TestClient, filters: dict[str, str]) -> None:
    for path in ("/vectors", "/export"):
        answer = api.get(path, params=filters)
        assert answer.status_code == 422, answer.text
        assert answer.json()["cure"]


def test_filters_find_text_in_every_normal_form(api: TestClient) -> None:
    composed, decomposed = (normalize(form, "café") for form in ("NFC", "NFD"))
    upload(api, tags=[decomposed], metadata={"place": decomposed, "split": "NaN", "id": "1e5"})
    record = api.get("/vectors/colour").json()
    assert (record["tags"], record["metadata"]["place"]) == ([composed], decomposed)
    for text in (composed, decomposed):
        for filters in ({"tag": text}, {"metadata": f"place={text}"}, {"metadata": f'place=["{text}"]'}):
            assert listed(api, **filters) == ["colour:1"], filters
        assert listed(api, metadata=[f"place>={text}", f"place<={text}"]) == ["colour:1"]
    assert listed(api, metadata=["split=NaN", "id=1e5", "id<=1f"]) == ["colour:1"]
    assert listed(api, metadata="split=Infinity") == []


def test_the_filter_applies_to_every_page(api: TestClient) -> None:
    for number in range(5):
        upload(api, tags=["odd"] if number % 2 else [])
    first = api.get("/vectors", params={"tag": "odd", "limit": 1}).json()
    second = api.get("/vectors", params={"tag": "odd", "limit": 1, "cursor": first["next"]}).json()
    assert [page["items"][0]["version"] for page in (first, second)] == [4, 2]
    assert second["next"] is None


def test_retrieval_accepts_filters(api: TestClient) -> None:
    checked = upload(api, tags=["checked"], metadata={"shots": 16})
    other = upload(api, "count")

    def found(**body: Any) -> list[str]:
        answer = api.post("/retrieve", json={"text": HUE, **body})
        assert answer.status_code == 200, answer.text
        return [match["id"] for match in answer.json()["matches"]]

    assert set(found()) == {checked["id"], other["id"]}
    assert found(filter={"tags": ["checked"]}) == [checked["id"]]
    assert found(filter={"metadata": ["shots>=17"]}) == []
    assert found(filter={"name": "count"}) == [other["id"]]
    from_query = api.get("/retrieve", params={"query": HUE, "tag": "checked", "metadata": "shots=16"}).json()
    assert [match["id"] for match in from_query["matches"]] == [checked["id"]]
    form = api.post("/retrieve", files={"text": (None, HUE), "filter": (None, '{"name": "count"}')})
    assert [match["id"] for match in form.json()["matches"]] == [other["id"]]
    assert_problem(api.get("/retrieve", params={"query": "a", "metadata": "shots"}), 422, "invalid-input")
    assert_problem(api.get("/retrieve", params={"query": "a", "min_seq": 99}), 409, "seq-not-reached")


def test_lineage(api: TestClient) -> None:
    root = upload(api)
    leaf = upload(api, derived_from=[root["id"]])
    assert leaf["derived_from"] == [root["id"]]
    lineage = api.get("/vectors/colour:1/lineage").json()
    assert [child["id"] for child in lineage["children"]] == [leaf["id"]]
    assert [parent["id"] for parent in api.get("/vectors/colour:2/lineage").json()["parents"]] == [root["id"]]


def test_the_audit_log_names_actor_and_operation(api: TestClient) -> None:
    ann = {"X-Actor": "ann"}
    record = upload(api)
    api.patch("/vectors/colour:1", json={"tags": ["a"]}, headers=V1 | ann)
    api.put("/aliases/colour/production", json={"vector": "colour"}, headers=CREATE | ann)
    entries = api.get("/audit").json()["items"]
    assert [(entry["actor"], entry["action"], entry["subject"]) for entry in entries] == [
        ("anonymous", "vector.publish", record["id"]),
        ("ann", "vector.update", record["id"]),
        ("ann", "alias.set", "colour@production"),
    ]
    assert api.get("/audit", params={"actor": "ann", "subject": record["id"]}).json()["items"] == [entries[1]]
    page = api.get("/audit", params={"limit": 2}).json()
    assert api.get("/audit", params={"after": page["next"]}).json()["items"] == entries[2:]


@pytest.mark.parametrize("actor", ["", " ", "x" * 129, "a\tb", "ä"])
def test_an_unprintable_actor_is_rejected(api: TestClient, actor: str) -> None:
    upload(api)
    headers = {b"If-Match": b'"v1"', b"X-Actor": actor.encode()}
    answer = api.patch("/vectors/colour:1", json={}, headers=headers)
    assert answer.status_code == 422, answer.text


def test_an_export_can_be_imported(api: TestClient) -> None:
    record = upload(api, tags=["checked"])
    upload(api, "count")
    answer = api.get("/export", params={"tag": "checked"})
    assert answer.headers["content-type"] == "application/x-tar"
    assert [entry.id for entry in open_archive(io.BytesIO(answer.content)).entries] == [record["id"]]
    other = TestClient(create_app(memory_library()))
    for outcome in ("imported", "present"):
        sent = other.post("/import", content=answer.content)
        assert sent.headers["x-catalogue-seq"] == "1"
        (item,) = sent.json()["items"]
        assert (item["id"], item["version"], item["outcome"]) == (record["id"], 1, outcome)
    imported = other.get("/vectors/colour").json()
    assert {**imported, "created_at": record["created_at"]} == record
    assert other.get("/audit").json()["items"][0]["actor"] == "anonymous"


def test_an_import_reports_the_result_of_each_vector(api: TestClient) -> None:
    text = card("colour", HUE).encode()
    items = [
        Item.of("01K9Z4T0XJ4V6W8M2Q5R7S9A1B", "colour", 1, artifact(MODEL), text),
        Item.of("01K9Z4T0XJ4V6W8M2Q5R7S9A1C", "colour", 2, b"no vector", text),
    ]
    answer = api.post("/import", content=b"".join(pack(items)), headers={"X-Actor": "ann"})
    good, bad = answer.json()["items"]
    assert answer.status_code == 200
    assert (good["outcome"], good["state"], good["problem"]) == ("imported", "active", None)
    assert (bad["outcome"], bad["version"], bad["problem"]["status"]) == ("refused", None, 422)
    assert bad["problem"]["type"] == "/problems/invalid-artifact"
    assert bad["problem"]["cure"]


def test_an_invalid_archive_is_rejected_entirely(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_problem(api.post("/import", content=b""), 422, "invalid-archive")
    assert_problem(api.post("/import", content=b"x" * 5_000), 422, "invalid-archive")
    assert_problem(api.post("/import", json={}), 422, "invalid-input")
    assert_problem(api.post("/import", content=b"x" * 200_001), 413, "too-large")
    two = pack(Item.of(f"01K9Z4T0XJ4V6W8M2Q5R7S9A1{end}", "colour", 1, b"", b"") for end in "BC")
    monkeypatch.setattr("vlibrary.api.routes.archive.MAX_ITEMS", 1)
    assert_problem(api.post("/import", content=b"".join(two)), 422, "invalid-archive")


def test_an_export_that_fails_to_start_returns_a_problem(api: TestClient, library: Library) -> None:
    record = upload(api)
    library.artifacts.delete(library.catalogue.vectors.get(record["id"]).object_key)
    assert_problem(api.get("/export"), 500, "artifact-lost")
