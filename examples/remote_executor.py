#!/usr/bin/env python3
"""An executor on another machine, in Python: outsourced C2.

It takes C1's output from the daemon, hands it to a program that speaks the ext-processor protocol (here
`sealflow processor c2`; yours may be any), and gives the proof back.

    pip install grpcio grpcio-tools
    python3 examples/remote_executor.py 127.0.0.1:7443 token -- sealflow processor c2

The variable WORKER names this machine. TOKEN is a file with what `sealflow executor token create outsourced` told. The contract is
executors/sdk/proto/sealflow/executor/v1/executor.proto; its stubs are made when this starts.
"""
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import grpc
from grpc_tools import protoc

PROTO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../executors/sdk/proto")
WORKER = os.environ.get("WORKER", "outsourced")


def stubs():
    out = tempfile.mkdtemp()
    name = "sealflow/executor/v1/executor.proto"
    if protoc.main(["", f"-I{PROTO}", f"--python_out={out}", f"--grpc_python_out={out}", name]) != 0:
        sys.exit("the contract cannot be compiled")
    sys.path.insert(0, out)
    from sealflow.executor.v1 import executor_pb2, executor_pb2_grpc

    return executor_pb2, executor_pb2_grpc


pb, rpc = stubs()


def prover_id(miner):
    """The miner's number as the proofs library has it: LEB128, filled up with zeros to 32 bytes."""
    number, out = int(miner[2:]), []
    while True:
        byte, number = number & 0x7F, number >> 7
        out.append(byte | (0x80 if number else 0))
        if not number:
            return out + [0] * (32 - len(out))


class Executor:
    def __init__(self, address, token, command):
        # The library would wait up to two minutes before it looks for a daemon that was restarted.
        options = [("grpc.max_receive_message_length", 256 << 20), ("grpc.max_send_message_length", 256 << 20),
                   ("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 2000)]
        self.stub = rpc.ExecutorsStub(grpc.insecure_channel(address, options=options))
        self.metadata = [("authorization", "Bearer " + token)]
        self.command = command
        self.incarnation = uuid.uuid4().hex
        self.attempts = {}  # what runs, or has an end that is not acknowledged, by token
        self.ends = {}
        self.session = None
        self.lock = threading.Lock()

    def run(self):
        while True:
            try:
                self.contact()
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT,
                                    grpc.StatusCode.PERMISSION_DENIED):
                    sys.exit(f"refused: {error.details()}")
                print(f"no contact: {error.details()}; what runs goes on", file=sys.stderr)
                self.session = None
                time.sleep(2)

    def contact(self):
        offer = pb.Offer(name="c2", stages=[pb.StageVersion(stage="c2", version=1)], concurrency=1)
        with self.lock:
            listed = list(self.attempts.values())
        registered = self.stub.Register(pb.RegisterRequest(
            contract=1, worker=WORKER, program="remote_executor.py", incarnation=self.incarnation,
            capacity=pb.Resources(cpu=os.cpu_count(), memory=64 << 30), offers=[offer], attempts=listed,
        ), metadata=self.metadata)
        self.session = session = registered.session
        for attempt in registered.superseded:
            self.forget(attempt)
        print(f"registered as {WORKER}", file=sys.stderr, flush=True)
        threading.Thread(target=self.beat, args=(session, registered.lease_ms / 4000), daemon=True).start()
        self.report()
        for order in self.stub.Attend(pb.AttendRequest(session=session), metadata=self.metadata):
            what = order.WhichOneof("what")
            if what == "start":
                with self.lock:
                    known = order.start.attempt.token in self.attempts
                    self.attempts[order.start.attempt.token] = order.start.attempt
                if not known:
                    threading.Thread(target=self.work, args=(order.start,), daemon=True).start()
            elif what == "stop" and order.stop.superseded:
                self.forget(order.stop.attempt)

    def beat(self, session, every):
        while self.session == session:
            try:
                self.stub.Beat(pb.BeatRequest(session=session), metadata=self.metadata, timeout=5)
            except grpc.RpcError:
                return
            time.sleep(every)

    def forget(self, attempt):
        with self.lock:
            self.attempts.pop(attempt.token, None)
            self.ends.pop(attempt.token, None)

    def fetch(self, attempt, artifact):
        wanted = pb.Artifact(store=artifact["store"], key=artifact["key"], bytes=artifact["bytes"],
                             digest=artifact.get("digest") or "")
        request = pb.FetchRequest(session=self.session, attempt=attempt, artifact=wanted)
        content = b"".join(chunk.data for chunk in self.stub.Fetch(request, metadata=self.metadata))
        if "sha256:" + hashlib.sha256(content).hexdigest() != artifact["digest"]:
            raise ValueError("C1's output is not what was recorded")
        return content

    def work(self, start):
        attempt = start.attempt
        try:
            task = json.loads(start.input)
            c1out = json.loads(self.fetch(attempt, task["c1_output"]))
            request = {"id": 1, "task": {
                "c1out": c1out, "prover_id": prover_id(task["miner"]), "sector_id": task["sector"],
                "miner_id": int(task["miner"][2:]),
            }}
            child = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            ready = child.stdout.readline().strip()
            if ready != "c2 processor ready":
                raise ValueError(f"the program said {ready!r}")
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
            answer = json.loads(child.stdout.readline())
            child.stdin.close()
            child.wait()
            if answer["err_msg"]:
                raise ValueError(answer["err_msg"])
            output = {"proof": bytes(answer["output"]["proof"]).hex()}
            item = pb.Item(attempt=attempt, output=json.dumps(output).encode())
        except Exception as error:
            failure = pb.Failure(**{"class": "transient"}, code="outsourced_c2", message=str(error))
            item = pb.Item(attempt=attempt, failure=failure)
        with self.lock:
            self.ends[attempt.token] = item
        try:
            self.report()
        except grpc.RpcError as error:
            print(f"kept until there is contact: {error.details()}", file=sys.stderr)

    def report(self):
        with self.lock:
            items = list(self.ends.values())
        if items and self.session:
            self.stub.Report(pb.ReportRequest(session=self.session, items=items), metadata=self.metadata)
            for item in items:
                self.forget(item.attempt)


if __name__ == "__main__":
    if len(sys.argv) < 5 or sys.argv[3] != "--":
        sys.exit(__doc__)
    with open(sys.argv[2]) as file:
        Executor(sys.argv[1], file.read().strip(), sys.argv[4:]).run()
