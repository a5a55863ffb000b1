import gc, tracemalloc, httpx, sys
sys.path.insert(0,"benchmarks")
from benchmarks.bench_serve import Mix
from tests.apps.server.conftest import running
def test_dbg(assistant):
    mix=Mix()
    with running(assistant, media_cache_entries=4) as server, httpx.Client(timeout=60) as c:
        def go(a,b):
            for i in range(a,b):
                r=c.post(server.url+"/v1/chat/completions", json={"model":"tiny","messages":mix.messages(i),"max_tokens":8}); assert r.status_code==200
        go(0,200); gc.collect(); tracemalloc.start(12); go(200,250); gc.collect(); a=tracemalloc.take_snapshot(); go(250,650); gc.collect(); b=tracemalloc.take_snapshot()
        f=(tracemalloc.Filter(False, tracemalloc.__file__),)
        for s in b.filter_traces(f).compare_to(a.filter_traces(f),"lineno")[:14]: print(s)
        print(tracemalloc.get_traced_memory())
