"""What the end-to-end tests ask this machine's HAProxy about our files, asked of each release's."""

import subprocess

import pytest
import test_haproxy
import test_hosts_docs
import test_redis_docs
import test_redis_front
import test_tls

pytestmark = pytest.mark.usefixtures("haproxy")
certificate = test_tls.certificate


class TestHaproxyCfg(test_haproxy.TestFile):
    pass


class TestTls(test_tls.TestFile):
    pass


class TestRedisCfg(test_redis_front.TestFile):
    pass


test_docs_of_many_hosts = test_hosts_docs.test_haproxy
test_docs_of_failover = test_redis_docs.test_the_front_s_environment


def test_the_releases_differ(request):
    version = request.node.callspec.id.split()[-1]
    said = subprocess.check_output([test_haproxy.HAProxy.program(), "-v"], text=True)
    assert said.startswith(f"HAProxy version {version}.")
