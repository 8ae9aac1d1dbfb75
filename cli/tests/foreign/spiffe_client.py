"""An app that has its identity from the Workload API by the library `spiffe` alone.

Tells what it was given, and again whenever that changes, one JSON object a line, until it is ended.
"""

import json
import sys
import threading

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from spiffe import WorkloadApiClient, X509Source

endpoint = sys.argv[1]
changed = threading.Event()


def der(certificate):
    return certificate.public_bytes(Encoding.DER).hex()


def public(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def tell(svid, bundles):
    print(
        json.dumps(
            {
                "id": str(svid.spiffe_id),
                "chain": [der(certificate) for certificate in svid.cert_chain],
                "keyIsTheLeafs": public(svid.private_key.public_key()) == public(svid.leaf.public_key()),
                "bundles": {
                    str(bundle.trust_domain): sorted(der(root) for root in bundle.x509_authorities)
                    for bundle in bundles
                },
            }
        ),
        flush=True,
    )


with WorkloadApiClient(endpoint) as client:
    bundles = client.fetch_x509_bundles()
    print(json.dumps({"fetched": sorted(str(bundle.trust_domain) for bundle in bundles.bundles)}), flush=True)
    try:
        client.fetch_jwt_svid({"somebody"})
        print(json.dumps({"jwt": "given"}), flush=True)
    except Exception as error:  # whatever the library makes of it
        print(json.dumps({"jwt": str(error)}), flush=True)

source = X509Source(socket_path=endpoint)
source.subscribe_for_updates(changed.set)
tell(source.svid, source.bundles)
while changed.wait():
    changed.clear()
    tell(source.svid, source.bundles)
