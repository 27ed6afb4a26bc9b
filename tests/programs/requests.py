"""Sends many HTTP/1.1 requests over kept connections and says what became of them.

requests.py count ADDRESS COUNT
    Counts answers by the server that gave them, or by status and cause when the mesh did.
requests.py follow LAST ADDRESS...
    Asks each address over and over until it has seen version LAST of the configuration there. Prints each version as it
    comes, and at last a report. Of every answer three things must agree: the version that the route put into the request, the
    one that it put into the answer, and the server that was asked.
"""

import collections
import http.client
import json
import sys
import threading


def get(connection, path):
    connection.request("GET", path)
    response = connection.getresponse()
    return response, response.read()


def count(address, total):
    counts, lock = collections.Counter(), threading.Lock()

    def run(share):
        connection = http.client.HTTPConnection(address, 80, timeout=20)
        own = collections.Counter()
        for number in range(share):
            response, body = get(connection, "/%d" % number)
            error = response.getheader("nodemesh-error")
            if response.status == 200 and error is None:
                own[json.loads(body)["server"]] += 1
            else:
                own["%d %s" % (response.status, error.split("cause=")[1].split(";")[0])] += 1
        with lock:
            counts.update(own)

    threads = [threading.Thread(target=run, args=(total // 4,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(counts), flush=True)


def follow(last, addresses):
    lock = threading.Lock()
    report = {"requests": 0, "failed": [], "torn": [], "versions": 0}

    def run(index, address):
        connection = http.client.HTTPConnection(address, 80, timeout=20)
        seen = -1
        while seen < last:
            failed, torn, version = None, None, seen
            try:
                response, body = get(connection, "/x")
                said = json.loads(body) if response.status == 200 else None
                if said is None:
                    failed = "%d %r" % (response.status, body)
                else:
                    asked = dict(said["headers"]).get("x-version")
                    answered = response.getheader("x-version")
                    version = int(asked)
                    if answered != asked or said["server"] != "v%d" % (1 + version % 2):
                        torn = [asked, answered, said["server"]]
            except Exception as error:
                failed = repr(error)
                connection = http.client.HTTPConnection(address, 80, timeout=20)
            with lock:
                report["requests"] += 1
                if failed is not None:
                    report["failed"].append(failed)
                if torn is not None:
                    report["torn"].append(torn)
                if version > seen:
                    report["versions"] += 1
                    print(json.dumps({"at": index, "version": version}), flush=True)
            seen = max(seen, version)
            if len(report["failed"]) > 20:
                return

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(addresses)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(report), flush=True)


if sys.argv[1] == "count":
    count(sys.argv[2], int(sys.argv[3]))
else:
    follow(int(sys.argv[2]), sys.argv[3:])
