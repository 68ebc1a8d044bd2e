"""The same content as other Pythons and numpys wrote it: name -> zlib, base64.

Written by cPickle, pickle where there is none, of a dict of arrays, lists and text; the last item
of a name is the protocol.
"""

WRITTEN = {
    "python2.7-numpy1.16-protocol0": (
        "eNqVVdtq20AQfZ/PKAH5pWZvukFp/FAKguBATfMkcFc3R0WxhCwTG/rD/YvOSGt5HUdua1jbO9dzZnZ2Z1nD"
        "YeV0rS63DjQC0rSuqjztynq7g8c2y9s8+1KmHTQSZrOqUYBfLrqUGdp7oHHr41bfre84SgLQKydxQGvShKhp"
        "9eu6yw8dKjnr7TmHp+ffVVWjRIB+iveq8Fi8Z4xpFEnjzBV6J8cu35GrS4FTXcSHPIwPjMXb2PkQx6RCFL19"
        "j2OflTUJEUi63b80x3lat/n8ZV91pW5bfYR1m6fIrmv3RIuHMBsMYZsNBo1gMIsYdD2T7lsjOO6HFQmIJHTG"
        "I+uOTY72AmYrp1AOoBcakQuWCw1XzicHlstl9BFdaWHUJGIMFT2Jd1fA7m3BYvyzsG2sjWYLxJn0VRBUtaJu"
        "saV9R7FuG+K4uSLlGVIDo40hEdgk/Fsk+E0Sf13BYlpZXFbgcnG2uBX6hpIrq04Bwn/WVUFFCqeKJNlYpLFC"
        "wqqQ5P/S5mBIn7IxuxSo2r3qpslpjqScBKAMgHOLSvucSdcA+Pz/56xf/M1enDF6dJIqvaH5k/4kwuCqRAm3"
        "EYYG4a8bCHsUY2ZFUnNnKD6VWImrxN/t3qg3IxhApAC/T2m1zTyxN6m9+fF4+nfGN95M6/7GIJiTc6a8K5ir"
        "C5j+ZX0Eya3q6CS9TE4Ht05+4iVNjVGTZ9c9nV01Jn60p9vl7zfGkyY33fR0TjVe50uNpvrpANrAcMkzf2k6"
        "Yu+qSRCuAcHMLSNhoDXycemYbettTnEmT5kbjHEwiH8VhF6aXaor3VJRvOGh8ThMvAGDKRoKyiUvxiRl931K"
        "j4ZyMBjmzi6ep6YHn4IVGa5iag3x3VN8GZopGOSeeQA9etAQf5IPpIKBVEgQdMRZGLqce8L3ffTA7G8EEkuk"
        "Ix9fVdarQX8Vc8xJNzf284Gzqc+DAeD3c7hvKuqNj172g9H4CL3DH3qvEbavYDf/A9gFK/M="
    ),
    "python2.7-numpy1.16-protocol1": (
        "eNp9VGFP00AYvm4DRkEFQUFRUUQ5FOaKwECRTUVxFEeiuYQPLrPtbnamrHu7W2CJJvwUvvojTEj8K37xm3/A"
        "4Ntrh6NhXvre5dL3nud5n77Xr6CwHuEZ1RrELMt1HG6JqltrqDtemXu8vFG1hApxWoQERg9lsWoZeovQR1mP"
        "MV2a1iDJFJPzIvRTlvSM/ZLgBwLUIgzQ3V5CiP3jm+O4MLibwM3P70cqXPCzL+J5syV4Ay6xfsuo/CLqzNQH"
        "GMJXwz50s1x14bJVa+7VWynL9Xhqr+mIquF5RkstedxCjcJr+uJGaJCm1srBaxilOhEoS7yDK1RX8NFjelyE"
        "aWXRqnMVrmItlUWd6AqmjVE9zpS1QqGwdYJDTohh5tNplY0TOQ6zOOXwwTjEOMoJE+WOU9ZXcT30sAbX7BFq"
        "d7Bfl+w+ty3pVkK6ia50msrS5MxI5oL1dzZYh8I9CdfRQMYNyhK24VTgZkTDrUBDqGAhVDD5v4ITZIUcS9Tb"
        "WFxj36jXeRnuRICnJHBYWrXt5F0JvH4+8GAoXcGISYJp/NgVx/jUgHsR+Puduk0thJ+R8F/Oh48pRIJS9EK2"
        "4WwE80EnJmt78fDUCz2pJ/RkiDZkoEoTw8L4uEMC7DnKBmTjlmSzwXyEItVJ8b5N8ehUNnaD8s9ow7QC2DQa"
        "7Zqf8fY1QItALkjIRAC50+6hx+c5kQ2Ai7BImWIU9Piub/UBlxxL6DXfq4sWLEcYMpKB+B9zTAoLRK2gjzW3"
        "xmE1kv8kyBf2REf2U79XLMMxvAasFeEZ7XJ7gxwV1qk9hq1GjrOImLVxKxupXV+uS4ey5J+TYGDSc//YDFP8"
        "Ay/8/8pLFIG0JkcRG0V4hULzWnp1dUnTlhcymcyymp8/u387p2zVhxUiCTZziaBD/ZtY2NbS3ca26rO9RkdF"
        "s+5w2Dy96fBmVkCec1S01Uj9BRxxkqc="
    ),
    "python2.7-numpy1.16-protocol2": (
        "eNp1lFtPE0EUx2fbRcqCCoKA4hVRFoVKESgo0qog0I0lwUzCg5u6l6lbs3R7tttAE014KRfffefVD2FC4lfx"
        "xTe/gMGzs1uaTei0Z6eTPfM7/3PmTPdjX0GgHZ6rlcoQMwzHtpnhlZxyVdp0TeYyc6VkeBLEVRBlFTpkGiuZ"
        "cEmFTpl2aGOFsRQkqKAzpkKXTBOutlvw2J4Hkgrd8vYlQoj164dtO9CzLeLi988TCS773ldwv173WBWu0i5D"
        "K/4h0vjoB+jFV30+umaWHLhmlGs7lXrScFyW3KnZXklzXa0uFVxmoETPrfna+gMvqWwGb2FAIQ0UdbgF12VF"
        "wE9MiR+GTqZXrzAJBmmsOKsQRUCnIVmJU2Epn8/nznDwh0I8/ZgOEz72M/jI4hdtH+0k6+moc1imnUXHxdqV"
        "4YbVb7XC3pSDoAeWH2chjDPSJs4RnSaRkcgG899MMPeGaxLOA0H8WzIVLc0uwu1I8Ds8eIOHnglD322bokgW"
        "yCnH3cN0qrtapcJMuB8hjvrEOCeWmkV7wInLFxB7QrECWoyTx/BAi7b2qQoPI9xHLaV6KuSOc+6XC7gxgXCa"
        "jGnzHpuIwB63YLSZ9pPztJWEIioJH9OroS4dzUD7uEkC6KRMu3k7FngPwVSEnWyx3zfZT8+F4kkLYTE13Qh4"
        "01hMR/+Md6kKqQhrxmeJnLXZ7IxnFyWdQaIKszIVtLwS3/bLucc4fA7ryXYqXh3mI+i0jyZ+2w0d00DHAhar"
        "7JQZLEY8n3PPhjXS9HvhH76h2ZpbhSUVXsptbl7gI8GyNYStQ04zB1uQsZZ5azSzybZpNpr4dxYM3PQKN41T"
        "QcCfr/3/gzcoAEPqDAWsqLCKAjdS04uLc6nU/Ew6nZ6XNqai63eTQq7SJxDOX8uKQdcd5b9145RbFwYGv68m"
        "fPRbLJdXq9gM1sJrCesTh7DBWGMLctXkf658ii0="
    ),
    "python3.6-numpy1.13-protocol3": (
        "eNp1lOty00YYhle2Ca6gJdBwSE8cGkChEEgaqNtS7GIgNAKnLIWqBWMkeY1MFcuvvG7ilkOA2o5DC/zpf/5y"
        "EZ1hhlvpBXADTNjVSjPtBNZerSTvfs/7fft6l9K3Qax1hBAe2vUGNNcNfJ+5vB40WvpcWGUhq56qu1xHapwi"
        "bVgpMbdeRaaMdUa00B6rjE1iyNLEvYP1zMqKm9BeqHC2yJEt4x3DGhKvvBfPfD+AbmXEw7//PNWxgUUBnA5n"
        "LWy0dHHv2rUXz4i+f89VvKuit6v1AO+5jfZ8szPhBiGbmG/7vG6Hod3RKyFzhVAetqXCTWqW3qiqXzFski42"
        "FzUHW/p4n2LEMDXxSZnpPrbGk6u802Q6tkWJ1aax3SSm1scOilHDTEdZHccHpVJpdlW06GISjg+dQXEHidpS"
        "XlwK4iv6kuhPC/iI42PHWi8jBqGobAOfeJu8SM5OT2jZRbHbUEp62OPF8Bw+VfAxir0C7q3F7nOWi0fI/1q2"
        "oMaXeTUOx88kHkcK2M9hOFHdPduvYTzRckBq+YziYKSli0OJkilMKCWHKY68WcmkKECG5MhzTHF8rpJtLdjN"
        "JqtiOgEclYBjFF9IQLqLXAyoT+NLBfiK4uukzidwfA3mG4HZGCck56RwgiPvRN6o+faNFgoJ7FsJO0lRjLM5"
        "FcOcSZxWsDMUMwnsFs6ugX0nYCmNYJbDVPWKPHwuIZyXhBLFXEz4PiZcmsIFRaAUF5N6mVkzY2Y5fhBRh20p"
        "RBpc9OtzhOASx2XH2pD4vxJZFj8mKEuifqL4OUZdiVEXp3BVocoU1yRKpiGMpMkEKnJTbMcluM5hq00JnJvi"
        "/9yCk4R2ZegqBZOhM13U4tBzOdxQoT2KehL6PxXKc9x0BmX8YkQVtOGX4mIuYp5xNNS2sPkm7yBIcE2JA0Uo"
        "cUQavuWNDooEnKOtqtwIGgy/JgsW5IJFik60oIvfvL0DT0z+PTaZa/t22MKtMm4bbzkX1Bwdd7xRYVLyPI+7"
        "PSxR3PPuJA7M4b5K9gHFH2+2eNcpZl+tqoZeD32KZRFgpqhpGPSwQvGQRZKECIcJSX+W8ZcQvTKk7BqPq+cP"
        "arPNzRqJAs8UMsrNy6UVufuzZ7WRbX+fzqqzkLebPsOj5Gh4PN7Hk3Zr4jX9TbJq"
    ),
    "python3.6-numpy1.13-protocol4": (
        "eNqFVMFq20AQ3XXkxNg5JNQNuRTSEmgDwTSlBx9KbVBLS0RtaOmtxV1J60pFloQskZi24EvsOOwtk3uu+YhC"
        "IL/SD+gPFHe0K0Ncy2Sl0WjZ2fdmZmd2qF1cakSOnyCKccRcH0TFCjyPW7Eb+H2ctSObR9x+5VoxnMPee3gi"
        "Cq4Nn1EX2W5n9wAENYGLUsSOOjE/juXSqnNz5XkBCO33r8syLhfNQcwRr2yx7s0VKT9+9AkpWWK7aHTfT3rh"
        "oGYFEa/1Ei92WRSxAYj1TsQtdCOOEskuitIQxJpvK5NzMMgJ6OjBGNA1g+JTMFbG4FRF0Y4HIU+3FbrP0c6g"
        "ymZF0BfQarUOpzjkxyAxmBN9W+Vi2MBPE1+UIcplE3BZrHWDCFPkg3PP2UpZne0ZJzKOwHmAPPXbPM7DRZZT"
        "/SmZG6Wm0n8aSm9kc5LpqmLXHOZ186hPFPGzu4gnukbq5FqF0j9iYcjtHLwVhef+l7CXuQlbz1ylKAWJXOx6"
        "7Gt/uZ/mwTzuj1zcAiUqaFlPS8E+LgZtlAzNKEmQDYZemSgWypc2UZAVWYcdVT1LkT/MI7dT5AIuZ4lkpqXQ"
        "1gLzG7ZKXsCaQmrXF5BuhdtI8dJ+oQxaaT6Ogcs08l4Y5/lHZKXtTPQsQX7g8zwznOxPnO/qsC3msaif9qWz"
        "KVbVFNvC2cGSINcNGOEuZySP/c761Ut/p2rMtrV0SuU/x7ZMeiZXVAY9W1XFkenpu316GG5SIsHeNLOb57R1"
        "VkF1+JZWty5el/CmiJPQ4zBrq70xJP3aP+WppzI="
    ),
    "python3.11-numpy1.26-protocol5": (
        "eNqFlM1u00AQx+3Ubq20hwItoCJxQEWkEqpaxKEHRCLCl2qRSiBOgMLaXmMjx7Y2a7VBIOXSpKn21mnPvfYh"
        "kCr1VXgAXgCF8W5SkiiiK4/H613//rOzs26bxz1Dk+0HCJMzEsYg5t0kiqjLwyRuYm+HeZRR73nocjiCtbdQ"
        "EoXQg0/oTbJaX90EoTtAhcXIbp3TPS6HZoOLsyhKQBi/fp4Wcdh0Wpwir+gS/+JMKz649xElSeaFOOl6nDXS"
        "1rqbMLqOj5SFLirXfZY0nMz3KUPl0sltbbS1y3ir4IXWRjutIE9y0Hu8lVL8SBT8x9A76AKGbc8I/QnUarXt"
        "PjZ5szUOjq3bBXumi8uoAseJYs5PGOYihuBG6WRDm9asivK/y8ovDvrawC9VILiF4lv/xIM7U6RRuIPCL5Ww"
        "EZDIl6rGUGhLO1ekR1eR9iG4q8Jv7pI0pZ4ELYzHraMVJDAcy8vTaXmZuUSafkS+NCWwcEmSGGdzFPMd/huZ"
        "IcsjpywOKATNQXPRPu9oivl+cq22ZRu2Nc6al/VUJ4yR1ljKiOMqzLtRTDXHFHCrJ5OVOF+x1rEwl0dqsJFF"
        "PFRosVBn1MWjwFkmT0CwLOZiTw0ega3tQxXrX+notrEvtXe2JrRHklLGCHr5GdEJ1PKs7QHFV8KkjZSrtQy3"
        "C4IVW8tLZJjAOInpxIz7eQiXW++SiLBmfgSDD2JWdfOgV6qYn/MydHBa8E0WwBW1WbX+9FUbfvSsquvymWIG"
        "soZDlZCtH86qkhj4/puH+nZ6Tdck7FVlsDMHtcN5dNuv9aWbxy8s/CXwLI0oqPPXgbUuZM31v/NWmOI="
    ),
}
