"""Spans of a true server, as a collector of OTLP over HTTP receives them."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from served import Server, make_chatting_checkpoint

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(scope="module")
def collector():
    spans = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            data = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                data = gzip.decompress(data)
            for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], spans
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, collector):
    """Two instances; each pool holds 192 tokens."""
    model = make_chatting_checkpoint(tmp_path_factory.mktemp("served") / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        url = f"http://127.0.0.1:{collector[0]}/v1/traces"
        server = Server(model, 2, f"serve.otlp_traces_endpoint={url}")
    with server:
        yield server
    assert "Traceback" not in server.said


def attributes(span):
    found = {}
    for one in span.attributes:
        kind = one.value.WhichOneof("value")
        value = getattr(one.value, kind)
        found[one.key] = [v.int_value for v in value.values] if kind == "array_value" else value
    return found


def test_a_request_is_a_span_of_its_callers_trace(server, collector):
    _, spans = collector
    answer = server.openai.completions.create(
        model="tiny",
        prompt=list(range(1, 181)),
        max_tokens=40,
        temperature=0,
        extra_headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
    )
    server.wait_until(lambda: spans)
    [span] = spans
    assert span.name == "llm_request"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    found = attributes(span)
    assert found["gen_ai.request.id"] == answer.id
    assert found["gen_ai.response.model"] == "tiny"
    assert found["gen_ai.request.max_tokens"] == 40
    assert found["gen_ai.usage.prompt_tokens"] == 180
    assert found["gen_ai.usage.completion_tokens"] == 40
    seconds = 1e-9 * (span.end_time_unix_nano - span.start_time_unix_nano)
    assert seconds == pytest.approx(found["gen_ai.latency.e2e"], abs=1e-3)
    assert 0 < found["gen_ai.latency.time_to_first_token"] < seconds
    inference = found["gen_ai.latency.time_in_model_inference"]
    prefill = found["gen_ai.latency.time_in_model_prefill"]
    assert inference == pytest.approx(prefill + found["gen_ai.latency.time_in_model_decode"])
    assert found["lendkv.finish_reason"] == "length"
    assert found["lendkv.attempts"] == 1
    assert found["lendkv.borrowed_blocks"] > 0
    assert found["lendkv.lenders"] == [1 - found["lendkv.instance"]]
    assert found["lendkv.recomputed_tokens"] == 0

    spans.clear()
    server.openai.completions.create(model="tiny", prompt=[5], max_tokens=2, temperature=0)
    server.wait_until(lambda: spans)
    assert spans[0].trace_id.hex() != TRACE
    assert not spans[0].parent_span_id
